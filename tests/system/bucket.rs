//! A bucket that speaks as much of S3 as a backup needs, on loopback, for tests that cannot have a real one.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

type Objects = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// A bucket, as long as the test's process lives.
pub(crate) struct Bucket {
    pub(crate) endpoint: String,
    objects: Objects,
}

impl Bucket {
    /// An empty one.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let objects = Objects::default();
        let shared = Arc::clone(&objects);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let objects = Arc::clone(&shared);
                // A client that goes away ends its connection.
                std::thread::spawn(move || serve(stream, &objects));
            }
        });
        Ok(Self { endpoint, objects })
    }

    /// The names of its objects.
    pub(crate) fn names(&self) -> Vec<String> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }
}

fn serve(stream: TcpStream, objects: &Objects) -> std::io::Result<()> {
    let mut input = BufReader::new(stream.try_clone()?);
    let mut output = stream;
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if input.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_owned();
            if line.is_empty() {
                break;
            }
            head.push(line);
        }
        let header = |name: &str| {
            let found = head.iter().skip(1).filter_map(|line| line.split_once(": "));
            found.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
        };
        let length = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        input.read_exact(&mut body)?;
        let is_signed =
            header("authorization").is_some_and(|text| text.starts_with("AWS4-HMAC-SHA256 Credential=key/"));
        let mut words = head[0].split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (status, answer) =
            if is_signed { answer(method, &unescaped(target), &body, objects) } else { (403, Vec::new()) };
        write!(
            output,
            "HTTP/1.1 {status} Said\r\nContent-Length: {}\r\nETag: \"1\"\r\nLast-Modified: Sat, 21 Nov 2026 00:00:00 GMT\r\n\r\n",
            answer.len()
        )?;
        output.write_all(&answer)?;
    }
}

fn answer(method: &str, target: &str, body: &[u8], objects: &Objects) -> (u16, Vec<u8>) {
    let mut objects = objects.lock().unwrap_or_else(PoisonError::into_inner);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let key = path.strip_prefix("/bucket/").unwrap_or_default();
    match method {
        "PUT" => {
            objects.insert(key.to_owned(), body.to_vec());
            (200, Vec::new())
        }
        "GET" if query.contains("list-type=2") => (200, listed(query, &objects).into_bytes()),
        "GET" => objects.get(key).map_or((404, Vec::new()), |object| (200, object.clone())),
        "POST" if query.contains("delete") => {
            let text = String::from_utf8_lossy(body);
            let keys = text.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next());
            let mut told = String::from("<DeleteResult>");
            for key in keys {
                objects.remove(key);
                told.push_str(&format!("<Deleted><Key>{key}</Key></Deleted>"));
            }
            (200, (told + "</DeleteResult>").into_bytes())
        }
        _ => (400, Vec::new()),
    }
}

fn listed(query: &str, objects: &BTreeMap<String, Vec<u8>>) -> String {
    let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let (prefix, by_folder) = (value("prefix").unwrap_or_default(), value("delimiter").is_some());
    let (mut folders, mut found) = (BTreeSet::new(), String::new());
    for (key, object) in objects.iter().filter(|(key, _)| key.starts_with(prefix)) {
        match key[prefix.len()..].split_once('/') {
            Some((folder, _)) if by_folder => _ = folders.insert(format!("{prefix}{folder}/")),
            _ => found.push_str(&format!(
                "<Contents><Key>{key}</Key><LastModified>2026-11-21T00:00:00.000Z</LastModified><Size>{}</Size></Contents>",
                object.len()
            )),
        }
    }
    let folders: String =
        folders.iter().map(|f| format!("<CommonPrefixes><Prefix>{f}</Prefix></CommonPrefixes>")).collect();
    format!("<ListBucketResult><IsTruncated>false</IsTruncated>{found}{folders}</ListBucketResult>")
}

/// What stands for `%2F` and the like.
fn unescaped(target: &str) -> String {
    let mut parts = target.split('%');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..2).and_then(|code| u8::from_str_radix(code, 16).ok()).unwrap_or(b'?');
        out.push(char::from(code));
        out.push_str(part.get(2..).unwrap_or_default());
    }
    out
}
