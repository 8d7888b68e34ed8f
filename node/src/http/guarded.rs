//! A stream whose client may neither stay silent at the start nor stop taking in what it asked for. H1

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Bytes that the detection of the protocol may wait for: the preface of HTTP/2. No request is shorter.
const FIRST_BYTES: usize = 24;

/// The stream with its two clocks.
pub(super) struct Guarded<S> {
    stream: S,
    /// Until the first bytes are here: when they are late, and how many are missing.
    first: Option<(Pin<Box<Sleep>>, usize)>,
    /// While a write waits for the client: when that is too long.
    stalled: Option<Pin<Box<Sleep>>>,
    stall_max: Duration,
}

impl<S> Guarded<S> {
    pub(super) fn new(stream: S, first_max: Duration, stall_max: Duration) -> Self {
        Self { stream, first: Some((Box::pin(sleep(first_max)), FIRST_BYTES)), stalled: None, stall_max }
    }

    /// Lets a write that waits fail when it has waited for too long.
    fn stall<T>(&mut self, poll: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.stalled = None;
            return poll;
        }
        let max = self.stall_max;
        let late = self.stalled.get_or_insert_with(|| Box::pin(sleep(max)));
        match late.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = out.filled().len();
        let poll = Pin::new(&mut this.stream).poll_read(cx, out);
        if let Some((late, missing)) = &mut this.first {
            *missing = missing.saturating_sub(out.filled().len() - before);
            if *missing == 0 {
                this.first = None;
            } else if poll.is_pending() && late.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.stall(poll, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_write_vectored(cx, parts);
        this.stall(poll, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_flush(cx);
        this.stall(poll, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.stall(poll, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::timeout;

    const SOON: Duration = Duration::from_secs(1);
    const LONG: Duration = Duration::from_secs(3_600);

    #[tokio::test(start_paused = true)]
    async fn silent_client_is_given_up_and_one_that_spoke_is_not() {
        let (mut client, server) = duplex(64);
        let mut server = Guarded::new(server, SOON, LONG);
        client.write_all(b"PRI * HTTP/2.0").await.unwrap();
        let mut bytes = [0; 64];
        assert_eq!(server.read(&mut bytes).await.unwrap(), 14);
        let error = server.read(&mut bytes).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);

        let (mut client, server) = duplex(64);
        let mut server = Guarded::new(server, SOON, LONG);
        client.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").await.unwrap();
        assert_eq!(server.read(&mut bytes).await.unwrap(), 25);
        assert!(timeout(60 * SOON, server.read(&mut bytes)).await.is_err(), "it may stay silent now");
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_stops_reading_is_given_up() {
        let (mut client, server) = duplex(4);
        let mut server = Guarded::new(server, LONG, SOON);
        let mut bytes = [0; 4];
        for _ in 0..3 {
            // It reads again in time: the clock starts anew.
            let write = server.write_all(b"abcdefgh");
            let read = async {
                sleep(SOON / 2).await; // sleep: a slow client is the input
                client.read_exact(&mut bytes).await.unwrap();
                client.read_exact(&mut bytes).await.unwrap();
            };
            assert!(tokio::join!(write, read).0.is_ok());
        }
        let error = server.write_all(b"abcdefgh").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
