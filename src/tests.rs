//! Whole commands: what is typed, what a node is asked, what is shown, how it ends.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::thread::JoinHandle;

use serde_json::{Value, json};

use crate::{Console, run};

/// What a command left behind.
struct Ended {
    exit: u8,
    stdout: Vec<u8>,
    stderr: String,
}

impl Ended {
    fn stdout(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap()
    }

    /// The one line that an error is.
    fn complaint(&self) -> &str {
        let line = self.stderr.strip_suffix('\n').unwrap();
        assert!(!line.contains('\n'), "{line}");
        line.strip_prefix("atoll: ").unwrap()
    }
}

fn atoll(args: &[&str]) -> Ended {
    atoll_reading(args, b"")
}

fn atoll_reading(args: &[&str], stdin: &[u8]) -> Ended {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut console = Console::new(stdin, &mut stdout, &mut stderr);
    let args = ["atoll"].iter().chain(args).map(Into::into);
    let exit = run(args, &mut console).code();
    drop(console);
    Ended { exit, stdout, stderr: String::from_utf8(stderr).unwrap() }
}

/// A node that gives `answers`, one for each connection, and ends with what it was asked.
struct Node {
    url: String,
    asked: JoinHandle<Vec<Asked>>,
}

/// One request: its line, its headers in lower case, its body.
struct Asked {
    line: String,
    headers: Vec<String>,
    body: Vec<u8>,
}

impl Asked {
    fn has(&self, header: &str) -> bool {
        self.headers.iter().any(|line| line == header)
    }
}

/// Status line, headers, body.
type Scripted = (&'static str, &'static [&'static str], &'static str);

impl Node {
    fn answering(answers: &'static [Scripted]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serve = move || answers.iter().map(|answer| exchange(&listener.accept().unwrap().0, answer)).collect();
        Self { url, asked: std::thread::spawn(serve) }
    }

    /// Runs a command against this node.
    fn atoll(&self, args: &[&str]) -> Ended {
        atoll(&[args, &["--endpoint", &self.url]].concat())
    }

    fn asked(self) -> Vec<Asked> {
        self.asked.join().unwrap()
    }

    fn asked_once(self) -> Asked {
        let mut asked = self.asked();
        assert_eq!(asked.len(), 1);
        asked.remove(0)
    }
}

fn exchange(mut stream: &TcpStream, &(status, headers, body): &Scripted) -> Asked {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim_end().is_empty() {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let length = lines.iter().find_map(|line| line.strip_prefix("content-length: "));
    let mut asked_body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut asked_body).unwrap();
    let head = headers.iter().map(|header| format!("{header}\r\n")).collect::<String>();
    let answer =
        format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n{head}\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).unwrap();
    let line = lines.remove(0).trim_end_matches(" HTTP/1.1").to_owned();
    Asked { line, headers: lines, body: asked_body }
}

const NO_CONTENT: Scripted = ("204 No Content", &[], "");

#[test]
fn help_lists_what_there_is_and_nothing_else() {
    let help = atoll(&["--help"]);
    assert_eq!((help.exit, help.stderr.as_str()), (0, ""));
    for command in [
        "register", "counter", "set", "map", "flag", "keys", "status", "verify", "member", "demo", "load", "serve",
        "pki", "backup", "restore",
    ] {
        assert!(help.stdout().contains(&format!("\n  {command} ")), "{command}");
    }
    for later in ["doc", "watch", "edge", "route", "policy", "compare"] {
        assert!(!help.stdout().contains(&format!("\n  {later} ")), "{later}");
    }
    assert!(atoll(&["--version"]).stdout().starts_with("atoll "));
    let nothing = atoll(&[]);
    assert_eq!((nothing.exit, nothing.stdout()), (2, ""));
    assert!(nothing.stderr.contains("Usage:"));
}

#[test]
fn help_of_a_local_command_shows_no_client_options() {
    let local = atoll(&["pki", "issue", "--help"]);
    assert!(local.stdout().contains("--region"));
    assert!(!local.stdout().contains("--endpoint"), "{}", local.stdout());
    assert!(atoll(&["counter", "add", "--help"]).stdout().contains("--endpoint"));
}

#[test]
fn doctor_is_told_which_directory_and_asks_no_node() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let empty = atoll(&["doctor", "--data-dir", path]);
    assert_eq!((empty.exit, empty.stdout().contains("there is no data here")), (0, true));
    assert_eq!(atoll(&["doctor", "--data-dir", path, "--json"]).json()["verdict"], "healthy");
    assert_eq!(std::fs::read_dir(path).unwrap().count(), 0, "nothing was made");
    let missing = dir.path().join("nowhere");
    expect_usage_errors(&[
        (&["doctor"], "--data-dir"),
        (&["doctor", "--data-dir", missing.to_str().unwrap()], "no directory"),
        (&["doctor", "--config", missing.to_str().unwrap()], "No such file"),
        (&["doctor", "--data-dir", path, "--ca", "x"], "asks none"),
    ]);
    std::fs::write(dir.path().join("FORMAT"), "99").unwrap();
    let newer = atoll(&["doctor", "--data-dir", path]);
    assert_eq!((newer.exit, newer.stdout().contains("newer version")), (1, true), "{}", newer.stdout());
}

#[test]
fn reserved_command_is_not_supported_rather_than_unknown() {
    for args in [&["watch"][..], &["compare", "--json"], &["load", "compare", "a.json", "b.json"]] {
        let ended = atoll(args);
        assert_eq!(ended.exit, 2);
        assert!(ended.complaint().contains("not supported yet"), "{}", ended.stderr);
    }
}

/// Types each of `cases` and expects a usage error that tells of what stands beside it.
fn expect_usage_errors(cases: &[(&[&str], &str)]) {
    for (args, told) in cases {
        let ended = atoll(args);
        assert_eq!((ended.exit, ended.stdout()), (2, ""), "{args:?}: {}", ended.stderr);
        assert!(ended.complaint().contains(told), "{args:?}: {}", ended.stderr);
    }
}

#[test]
fn wrong_arguments_are_told_in_one_line_and_end_with_2() {
    expect_usage_errors(&[
        (&["cuonter"], "counter"),
        (&["counter", "add", "shop/visits"], "<N>"),
        (&["counter", "add", "shop/visits", "one"], "one"),
        (&["counter", "get", "shop"], "the key is empty"),
        (&["counter", "get", "Shop/visits"], "namespace"),
        (&["counter", "get", "_system/visits"], "namespace"),
        (&["register", "put", "shop/k"], "<VALUE"),
        (&["register", "put", "shop/k", "v", "--file", "f"], "--file"),
        (&["register", "put", "shop/k", "--file", "/no/such/file"], "/no/such/file"),
        (&["keys", "shop", "--limit", "10001"], "10001"),
        (&["keys", "shop", "--type", "counter"], "registers, counters"),
        (&["pki", "issue", "--dir", "d", "--node", "n", "--region", "r", "--days", "0"], "0"),
        (&["pki", "init", "--dir", "d", "--cluster", "Shop"], "Shop"),
    ]);
}

#[test]
fn wrong_client_options_are_told_in_one_line_and_end_with_2() {
    expect_usage_errors(&[
        (&["counter", "get", "shop/k", "--wait", "31s"], "30s"),
        (&["counter", "get", "shop/k", "--w", "0"], "majority"),
        (&["counter", "get", "shop/k", "--consistency", "bounded"], "not supported yet"),
        (&["counter", "get", "shop/k", "--policy", "latency"], "not supported yet"),
        (&["counter", "get", "shop/k", "--context", "c"], "--context"),
        (&["counter", "get", "shop/k", "--endpoint", "ftp://h"], "quic://"),
        (&["counter", "get", "shop/k", "--endpoint", "quic://h"], "CA"),
        (&["counter", "get", "shop/k", "--ca", "/no/such/file"], "/no/such/file"),
        (&["counter", "get", "shop/k", "--cert", "/no/such/file"], "--key"),
        (&["pki", "init", "--dir", "d", "--cluster", "c", "--w", "all"], "--w"),
        (&["--endpoint", "http://127.0.0.1:1", "pki", "show", "f"], "--endpoint"),
    ]);
}

#[test]
fn nobody_there_ends_with_3_and_says_where() {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let ended = atoll(&["counter", "get", "shop/visits", "--endpoint", &url]);
    assert_eq!((ended.exit, ended.stdout()), (3, ""));
    assert!(ended.complaint().contains(&url), "{}", ended.stderr);
    let ended = atoll(&["status", "--admin", &url]);
    assert_eq!(ended.exit, 3);
    assert!(ended.complaint().contains("--admin"), "{}", ended.stderr);
}

#[test]
fn refusal_ends_with_4_and_says_what_to_do() {
    const BEHIND: Scripted = (
        "503 Service Unavailable",
        &["retry-after: 2", "atoll-lag: eu-west-1=120"],
        r#"{"status":503,"code":"session_behind","detail":"because","request_id":"r1"}"#,
    );
    let ended = Node::answering(&[BEHIND]).atoll(&["counter", "get", "shop/visits"]);
    assert_eq!((ended.exit, ended.stdout()), (4, ""));
    for told in ["session_behind", "because", "eu-west-1=120", "2 s", "--wait"] {
        assert!(ended.complaint().contains(told), "{told}: {}", ended.stderr);
    }
}

#[test]
fn absence_ends_with_1() {
    const ABSENT: Scripted = (
        "404 Not Found",
        &["content-type: application/problem+json"],
        r#"{"status":404,"code":"not_found","detail":"","request_id":"r"}"#,
    );
    for args in [
        &["counter", "get", "shop/k"][..],
        &["register", "get", "shop/k"],
        &["register", "get", "shop/k", "--json"],
        &["set", "members", "shop/k"],
        &["map", "get", "shop/k"],
        &["flag", "get", "shop/k"],
    ] {
        let ended = Node::answering(&[ABSENT]).atoll(args);
        assert_eq!((ended.exit, ended.stdout()), (1, ""), "{args:?}");
        assert!(ended.complaint().starts_with("not found: shop/k"), "{}", ended.stderr);
    }
    let has = Node::answering(&[ABSENT]).atoll(&["set", "has", "shop/k", "milk"]);
    assert_eq!((has.exit, has.stdout(), has.stderr.as_str()), (1, "no\n", ""));
}

#[test]
fn write_level_that_is_not_reached_in_time_ends_with_1_and_warns_of_repeating() {
    let node = Node::answering(&[("202 Accepted", &["atoll-acked: 1/3"], r#"{"value":5}"#)]);
    let ended = node.atoll(&["counter", "add", "shop/visits", "5", "--w", "majority", "--json"]);
    assert_eq!((ended.exit, ended.json()), (1, json!({"value": 5, "acked": "1/3"})));
    assert!(ended.complaint().contains("1 of 3 regions"), "{}", ended.stderr);
    assert_eq!(node.asked_once().line, "POST /v1/shop/counters/visits?w=majority");
}

#[test]
fn counter_commands() {
    let node = Node::answering(&[("200 OK", &[], r#"{"value":-2}"#)]);
    let ended = node.atoll(&["counter", "add", "shop/stock/eu:1", "-7"]);
    assert_eq!((ended.exit, ended.stdout(), ended.stderr.as_str()), (0, "-2\n", ""));
    let asked = node.asked_once();
    assert_eq!(asked.line, "POST /v1/shop/counters/stock%2Feu:1");
    assert_eq!(asked.body, br#"{"add":-7}"#);

    let node = Node::answering(&[(
        "200 OK",
        &["atoll-context: c1", "atoll-region: eu-west-1", "atoll-staleness-ms: 40"],
        r#"{"value":9}"#,
    )]);
    let ended = node.atoll(&["--json", "counter", "get", "shop/visits"]);
    let expected = json!({"value": 9, "context": "c1", "region": "eu-west-1", "staleness_ms": 40});
    assert_eq!((ended.exit, ended.json()), (0, expected));

    let node = Node::answering(&[NO_CONTENT]);
    let ended = node.atoll(&["counter", "delete", "shop/visits", "--context", "c1"]);
    assert_eq!((ended.exit, ended.stdout()), (0, ""));
    let asked = node.asked_once();
    assert!(asked.has("atoll-context: c1"));
    assert_eq!(asked.line, "DELETE /v1/shop/counters/visits");
}

#[test]
fn register_value_comes_from_an_argument_a_file_or_standard_input() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("value");
    std::fs::write(&file, b"\x00from a file").unwrap();
    let cases: [(&[&str], &[u8], Option<&str>); 4] = [
        (&["hello"], b"hello", Some("content-type: text/plain; charset=utf-8")),
        (&["-"], b"\xfffrom stdin", None),
        (&["--file", file.to_str().unwrap()], b"\x00from a file", None),
        (&["{}", "--content-type", "application/json"], b"{}", Some("content-type: application/json")),
    ];
    for (args, body, content_type) in cases {
        let node = Node::answering(&[NO_CONTENT]);
        let put = [&["register", "put", "shop/greeting", "--endpoint", &node.url], args].concat();
        let ended = atoll_reading(&put, b"\xfffrom stdin");
        assert_eq!((ended.exit, ended.stderr.as_str()), (0, ""), "{args:?}");
        let asked = node.asked_once();
        assert_eq!((asked.line.as_str(), asked.body.as_slice()), ("PUT /v1/shop/registers/greeting", body));
        let sent = asked.headers.iter().find(|line| line.starts_with("content-type"));
        assert_eq!(sent.map(String::as_str), content_type);
    }
    let too_large = atoll_reading(&["register", "put", "shop/k", "-"], &vec![0; (1 << 20) + 1]);
    assert_eq!(too_large.exit, 2);
}

#[test]
fn register_is_shown_as_it_was_put_and_its_siblings_as_json() {
    let node = Node::answering(&[("200 OK", &["atoll-siblings: 2"], "no newline")]);
    let ended = node.atoll(&["register", "get", "shop/greeting"]);
    assert_eq!((ended.exit, ended.stdout()), (0, "no newline"));
    assert!(ended.complaint().contains("2 concurrent values"));

    const SIBLING: &str = r#"{"siblings":[{"value_base64":"aGk=","content_type":"t","region":"r","at":"z"}]}"#;
    let node = Node::answering(&[("200 OK", &["atoll-context: c1"], SIBLING)]);
    let ended = node.atoll(&["register", "get", "shop/greeting", "--json"]);
    let mut expected: Value = serde_json::from_str(SIBLING).unwrap();
    expected["context"] = json!("c1");
    assert_eq!(ended.json(), expected);
    assert_eq!(node.asked_once().line, "GET /v1/shop/registers/greeting?siblings=all");
}

#[test]
fn set_commands() {
    let node = Node::answering(&[("200 OK", &[], r#"{"size":2}"#)]);
    let ended = node.atoll(&["set", "add", "shop/cart:42", "milk", "bread"]);
    assert_eq!((ended.exit, ended.stdout()), (0, "2\n"));
    assert_eq!(node.asked_once().body, br#"{"add":["milk","bread"]}"#);

    let node = Node::answering(&[("200 OK", &[], r#"{"size":1}"#)]);
    node.atoll(&["set", "remove", "shop/cart:42", "-1"]);
    assert_eq!(node.asked_once().body, br#"{"remove":["-1"]}"#);

    let node = Node::answering(&[("204 No Content", &[], "")]);
    let ended = node.atoll(&["set", "has", "shop/cart:42", "a/b", "--json"]);
    assert_eq!((ended.exit, ended.json()), (0, json!({"member": true})));
    assert_eq!(node.asked_once().line, "GET /v1/shop/sets/cart:42/a%2Fb");
}

#[test]
fn list_goes_page_by_page_or_to_its_end() {
    const FIRST: Scripted = ("200 OK", &[], r#"{"members":["a","b\u001b"],"size":3,"next":"c/1"}"#);
    const LAST: Scripted = ("200 OK", &[], r#"{"members":["c"],"size":3,"next":null}"#);
    let page = Node::answering(&[FIRST]);
    let ended = page.atoll(&["set", "members", "shop/s", "--limit", "2"]);
    assert_eq!((ended.exit, ended.stdout()), (0, "a\nb\\u{1b}\n"));
    assert!(ended.complaint().contains("--after 'c/1'"));

    let whole = Node::answering(&[FIRST, LAST]);
    let ended = whole.atoll(&["set", "members", "shop/s", "--all"]);
    assert_eq!((ended.exit, ended.stdout(), ended.stderr.as_str()), (0, "a\nb\\u{1b}\nc\n", ""));
    let lines: Vec<_> = whole.asked().into_iter().map(|asked| asked.line).collect();
    assert_eq!(lines, ["GET /v1/shop/sets/s", "GET /v1/shop/sets/s?after=c/1"]);

    let stuck = Node::answering(&[FIRST, FIRST]);
    assert_eq!(stuck.atoll(&["set", "members", "shop/s", "--all"]).exit, 3);

    const KEYS: Scripted = ("200 OK", &[], r#"{"keys":[{"type":"sets","key":"cart:42"}],"next":null}"#);
    let node = Node::answering(&[KEYS]);
    let ended = node.atoll(&["keys", "shop", "--type", "sets", "--prefix", "cart:"]);
    assert_eq!((ended.exit, ended.stdout()), (0, "sets\tcart:42\n"));
    assert_eq!(node.asked_once().line, "GET /v1/shop/_keys?type=sets&prefix=cart%3A");
}

#[test]
fn map_commands() {
    let cases: [(&[&str], Value); 6] = [
        (&["set", "shop/user:7", "/address/city", "Paris"], json!({"set": {"/address/city": "Paris"}})),
        (&["set", "shop/user:7", "/age", "42"], json!({"set": {"/age": 42}})),
        (&["set", "shop/user:7", "/zip", "0123", "--string"], json!({"set": {"/zip": "0123"}})),
        (&["remove", "shop/user:7", "/a", "/b"], json!({"remove": ["/a", "/b"]})),
        (&["add", "shop/user:7", "/logins", "-1"], json!({"add": {"/logins": -1}})),
        (
            &["members", "shop/user:7", "/tags", "--add", "x", "--add", "y", "--remove", "z"],
            json!({"members": {"/tags": {"add": ["x", "y"], "remove": ["z"]}}}),
        ),
    ];
    for (args, body) in cases {
        let node = Node::answering(&[NO_CONTENT]);
        let ended = node.atoll(&[&["map"], args].concat());
        assert_eq!((ended.exit, ended.stdout(), ended.stderr.as_str()), (0, "", ""), "{args:?}");
        let asked = node.asked_once();
        assert_eq!(asked.line, "PATCH /v1/shop/maps/user:7");
        assert_eq!(serde_json::from_slice::<Value>(&asked.body).unwrap(), body);
    }
    let node = Node::answering(&[("200 OK", &[], r#"{"city":"Paris"}"#)]);
    let ended = node.atoll(&["map", "get", "shop/user:7", "/address"]);
    assert_eq!(ended.stdout(), "{\n  \"city\": \"Paris\"\n}\n");
    assert_eq!(node.asked_once().line, "GET /v1/shop/maps/user:7?path=/address");
}

#[test]
fn flag_commands() {
    for (verb, body) in [("enable", &br#"{"enabled":true}"#[..]), ("disable", br#"{"enabled":false}"#)] {
        let node = Node::answering(&[NO_CONTENT]);
        assert_eq!(node.atoll(&["flag", verb, "shop/beta"]).exit, 0);
        let asked = node.asked_once();
        assert_eq!((asked.line.as_str(), asked.body.as_slice()), ("PUT /v1/shop/flags/beta", body));
    }
    let node = Node::answering(&[("200 OK", &[], r#"{"enabled":false}"#)]);
    let ended = node.atoll(&["flag", "get", "shop/beta"]);
    assert_eq!((ended.exit, ended.stdout()), (0, "false\n"));
}

#[test]
fn session_token_is_kept_between_calls() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    let token = ["--token", file.to_str().unwrap()];
    let node = Node::answering(&[
        ("200 OK", &["atoll-token: t1"], r#"{"value":1}"#),
        ("200 OK", &["atoll-token: t2"], r#"{"value":1}"#),
    ]);
    assert_eq!(node.atoll(&[&["counter", "add", "shop/k", "1"], &token[..]].concat()).exit, 0);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "t1\n");
    assert_eq!(node.atoll(&[&["counter", "get", "shop/k"], &token[..]].concat()).exit, 0);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "t2\n");
    let asked = node.asked();
    assert!(!asked[0].headers.iter().any(|line| line.starts_with("atoll-token")));
    assert!(asked[1].has("atoll-token: t1"));

    let nowhere = Path::new("/no/such/directory/token").to_str().unwrap();
    let node = Node::answering(&[("200 OK", &["atoll-token: t1"], r#"{"value":1}"#)]);
    let ended = node.atoll(&["counter", "add", "shop/k", "1", "--token", nowhere]);
    assert_eq!(ended.exit, 5);
    assert!(ended.complaint().starts_with("done, but"), "{}", ended.stderr);
}

#[test]
fn bearer_token_comes_from_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bearer");
    std::fs::write(&file, "s3cret\nanother\n").unwrap();
    let node = Node::answering(&[("200 OK", &[], r#"{"value":1}"#)]);
    let ended = node.atoll(&["counter", "get", "shop/k", "--bearer-file", file.to_str().unwrap()]);
    assert_eq!(ended.exit, 0);
    assert!(node.asked_once().has("authorization: Bearer s3cret"));
    std::fs::write(&file, "\n").unwrap();
    let ended = atoll(&["counter", "get", "shop/k", "--bearer-file", file.to_str().unwrap()]);
    assert_eq!(ended.exit, 2);
}

#[test]
fn status_is_a_table_for_people_and_the_same_json_for_programs() {
    const STATUS: &str = r#"{"version":"0.1.0","cluster":"shop","node":"n1","region":"eu-west-1","actor":"ff","vector":{"ff":3,"fe":2},"durable":{"ff":3},"peers":[],"rows":7,"root":"ab","clock_skew_ms":-1.5}"#;
    let node = Node::answering(&[("200 OK", &[], STATUS)]);
    let ended = atoll(&["status", "--admin", &node.url]);
    assert_eq!(ended.exit, 0);
    for told in ["n1 in eu-west-1, cluster shop", "2 actors, 5 records", "-1.5 ms", "no peers"] {
        assert!(ended.stdout().contains(told), "{told}: {}", ended.stdout());
    }
    assert_eq!(node.asked_once().line, "GET /admin/status");
    let node = Node::answering(&[("200 OK", &[], STATUS)]);
    let ended = atoll(&["status", "--endpoint", &node.url, "--json"]);
    assert_eq!(ended.json(), serde_json::from_str::<Value>(STATUS).unwrap());
}

#[test]
fn certificates_are_made_renewed_and_shown() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("pki");
    let dir = dir.to_str().unwrap();
    let init = ["pki", "init", "--dir", dir, "--cluster", "shop"];
    let made = atoll(&init);
    assert_eq!((made.exit, made.stdout()), (0, &*format!("{dir}/ca.crt\n{dir}/ca.key\n")));
    let again = atoll(&init);
    assert_eq!(again.exit, 4);
    assert!(again.complaint().contains("exists"), "{}", again.stderr);

    let issue = ["pki", "issue", "--dir", dir, "--node", "n1", "--region", "eu-west-1"];
    let issued = atoll(&[&issue[..], &["--san", "10.0.0.7", "--json"]].concat());
    assert_eq!(issued.json(), json!({"cert": format!("{dir}/n1.crt"), "key": format!("{dir}/n1.key")}));
    assert_eq!(atoll(&["pki", "renew", "--dir", dir, "--node", "n1"]).exit, 0);

    let file = format!("{dir}/n1.crt");
    let shown = atoll(&["pki", "show", &file]);
    for told in ["shop", "eu-west-1", "n1", "10.0.0.7", "atoll://shop/eu-west-1/n1", "sha256"] {
        assert!(shown.stdout().contains(told), "{told}: {}", shown.stdout());
    }
    let shown = atoll(&["pki", "show", &file, "--json"]).json();
    assert_eq!(shown["identity"], json!({"cluster": "shop", "region": "eu-west-1", "node": "n1"}));
    assert_eq!(shown["fingerprint_sha256"].as_str().unwrap().len(), 64);

    assert_eq!(atoll(&["pki", "show", &format!("{dir}/n1.key")]).exit, 2);
    let blocked = directory.path().join("file");
    std::fs::write(&blocked, "").unwrap();
    let blocked = blocked.join("pki");
    let nowhere = atoll(&["pki", "init", "--dir", blocked.to_str().unwrap(), "--cluster", "shop"]);
    assert_eq!(nowhere.exit, 5, "{}", nowhere.stderr);
}
