//! What the service manager is told: that the node is ready, that it stops, that it is alive. The protocol of `sd_notify`.
//!
//! **How it goes.** `NOTIFY_SOCKET` names a datagram socket, by its path, or after an `@` in the abstract namespace. Each message is
//! one datagram. With `WATCHDOG_USEC`, the manager ends a process that has not said that it lives for so long.
//!
//! **What always holds.** Y1: nothing here stops a node: what cannot be told is logged. Y2: a node whose replica thread hangs does not say
//! that it lives.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Whom to tell; nobody, if no service manager asked.
#[derive(Debug, Default)]
pub(crate) struct Notify {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// As the environment of this process says.
    pub(crate) fn from_environment() -> Self {
        let variable = |name: &str| std::env::var_os(name);
        Self::new(variable("NOTIFY_SOCKET"), variable("WATCHDOG_USEC"), variable("WATCHDOG_PID")).unwrap_or_else(
            |error| {
                tracing::warn!("the service manager's socket cannot be used: {error}");
                Self::default()
            },
        )
    }

    fn new(name: Option<OsString>, usec: Option<OsString>, pid: Option<OsString>) -> io::Result<Self> {
        let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(Self::default()) };
        let socket = UnixDatagram::unbound()?;
        // It must never stop the node, whatever its other end does.
        socket.set_nonblocking(true)?;
        let number = |text: &OsStr| text.to_str().and_then(|text| text.parse::<u64>().ok());
        let is_ours = pid.is_none_or(|pid| number(&pid) == Some(u64::from(std::process::id())));
        let usec = usec.and_then(|usec| number(&usec)).filter(|usec| *usec > 0 && is_ours);
        Ok(Self { socket: Some((socket, address(&name)?)), watchdog: usec.map(Duration::from_micros) })
    }

    /// Its listeners are open; `/readyz` says whether it serves.
    pub(crate) fn ready(&self) {
        self.tell("READY=1\nSTATUS=listening");
    }

    /// It ends, in so long at most.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=draining");
    }

    /// Says that the node lives, over and over, as long as `silent_for` is short; never ends.
    pub(crate) async fn keep_alive(&self, silent_for: impl Fn() -> Duration) {
        let Some(watchdog) = self.watchdog else { return std::future::pending().await };
        let mut ticks = tokio::time::interval(watchdog / 3);
        loop {
            ticks.tick().await;
            // Y2
            if silent_for() < watchdog / 2 {
                self.tell("WATCHDOG=1");
            }
        }
    }

    fn tell(&self, message: &str) {
        let Some((socket, address)) = &self.socket else { return };
        if let Err(error) = socket.send_to_addr(message.as_bytes(), address) {
            // Y1
            tracing::warn!("the service manager was not told: {error}");
        }
    }
}

#[cfg(target_os = "linux")]
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt as _;
    match name.as_bytes().strip_prefix(b"@") {
        Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name),
        None => SocketAddr::from_pathname(name),
    }
}

#[cfg(not(target_os = "linux"))]
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    SocketAddr::from_pathname(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn a_socket_is_told_by_its_path_and_by_its_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let named = UnixDatagram::bind(&path).unwrap();
        let name = format!("atoll-notify-{}", std::process::id());
        let unnamed = UnixDatagram::bind_addr(&address(OsStr::new(&format!("@{name}"))).unwrap()).unwrap();
        for (socket, name) in [(&named, path.into_os_string()), (&unnamed, format!("@{name}").into())] {
            let notify = Notify::new(Some(name), None, None).unwrap();
            notify.ready();
            notify.stopping();
            assert!(heard(socket).starts_with("READY=1\n"));
            assert!(heard(socket).starts_with("STOPPING=1\n"));
            assert!(notify.watchdog.is_none());
        }
    }

    #[test]
    fn nobody_is_told_when_nobody_asked_and_a_socket_that_is_gone_stops_nothing() {
        Notify::new(None, Some("1000".into()), None).unwrap().ready();
        let dir = tempfile::tempdir().unwrap();
        let notify = Notify::new(Some(dir.path().join("gone").into_os_string()), None, None).unwrap();
        notify.ready();
    }

    #[tokio::test]
    async fn the_watchdog_is_told_in_time_and_not_of_a_node_that_hangs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let other = Notify::new(Some(path.clone().into()), Some("30000".into()), Some("1".into())).unwrap();
        assert_eq!(other.watchdog, None, "another process is watched");
        let pid = std::process::id().to_string();
        let notify = Notify::new(Some(path.into()), Some("30000".into()), Some(pid.into())).unwrap();
        let listener = tokio::task::spawn_blocking(move || {
            assert_eq!(heard(&socket), "WATCHDOG=1");
            assert_eq!(heard(&socket), "WATCHDOG=1");
            socket
        });
        let socket = tokio::select! {
            () = notify.keep_alive(|| Duration::ZERO) => panic!("it never ends"),
            socket = listener => socket.unwrap(),
        };
        socket.set_nonblocking(true).unwrap();
        while socket.recv(&mut [0; 256]).is_ok() {}
        let hung = notify.keep_alive(|| Duration::from_millis(15));
        assert!(tokio::time::timeout(Duration::from_millis(120), hung).await.is_err());
        assert!(socket.recv(&mut [0; 256]).is_err(), "it was not told");
    }
}
