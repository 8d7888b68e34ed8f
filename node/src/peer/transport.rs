//! The UDP socket and the QUIC settings of peer links, each with its reason.

use super::config::{Limits, StartError};
use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{AckFrequencyConfig, ClientConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt};
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

/// Uni streams that a peer may have open: control, live, bulk, and one that later versions may add.
pub(super) const STREAMS_MAX: u32 = 4;
/// One stream, unread: the bandwidth-delay product of 1.7 Gb/s at 150 ms, where the default stops at 67 Mb/s. Half of each
/// window of the connection: a reconciliation that is sent faster than it is taken in leaves the other half to records.
const STREAM_RECEIVE_WINDOW_BYTES: u32 = 32 << 20;
/// All streams of a connection, unread: the memory that one peer can fill.
const RECEIVE_WINDOW_BYTES: u32 = 64 << 20;
/// Written and not acknowledged: the memory that one slow peer can hold.
const SEND_WINDOW_BYTES: u64 = 64 << 20;
/// The end of a connection on which nothing is heard. The replica's own pings give up sooner.
const IDLE_MAX_MS: u32 = 10_000;
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(2);
/// Sets the first retransmission of a handshake to three times this; the default's is a second.
const INITIAL_RTT: Duration = Duration::from_millis(200);
/// Packets for one acknowledgement: every second one would cost 45 bytes back for each packet of data.
const ACK_EVERY_PACKETS: u32 = 8;
const ACK_DELAY_MAX: Duration = Duration::from_millis(10);
/// What the socket asks of the kernel, which may grant less: a burst must not be lost before it is read.
const UDP_BUFFER_BYTES: usize = 8 << 20;
/// Handshakes that the endpoint holds before they are accepted.
const INCOMING_MAX: usize = 256;
const INCOMING_BUFFER_BYTES: u64 = 64 << 10;
const INCOMING_BUFFER_TOTAL_BYTES: u64 = 8 << 20;

fn transport(limits: &Limits) -> Arc<TransportConfig> {
    let mut cubic = CubicConfig::default();
    cubic.initial_window(limits.initial_window_bytes);
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(ACK_EVERY_PACKETS)).max_ack_delay(Some(ACK_DELAY_MAX));
    let mut config = TransportConfig::default();
    config
        .max_concurrent_uni_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_RECEIVE_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MAX_MS))))
        .keep_alive_interval(Some(KEEP_ALIVE_EVERY))
        .initial_rtt(INITIAL_RTT)
        .ack_frequency_config(Some(acks))
        .enable_segmentation_offload(true)
        .congestion_controller_factory(Arc::new(cubic));
    Arc::new(config)
}

/// The accepting side's settings.
pub(super) fn server(tls: rustls::ServerConfig, limits: &Limits) -> Result<ServerConfig, StartError> {
    let crypto = QuicServerConfig::try_from(tls).map_err(|_| StartError::Cipher)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(transport(limits))
        // Servers keep their addresses; one that changes has been restarted, and dials anew.
        .migration(false)
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BUFFER_BYTES)
        .incoming_buffer_size_total(INCOMING_BUFFER_TOTAL_BYTES);
    Ok(config)
}

/// The dialling side's settings.
pub(super) fn client(tls: rustls::ClientConfig, limits: &Limits) -> Result<ClientConfig, StartError> {
    let crypto = QuicClientConfig::try_from(tls).map_err(|_| StartError::Cipher)?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport(limits));
    Ok(config)
}

/// Binds the peer port, with buffers as large as the kernel grants.
pub(super) fn bind(address: SocketAddr) -> Result<UdpSocket, StartError> {
    let failed = |source| StartError::Bind { address, source };
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP)).map_err(failed)?;
    // Refusals are no fault: the kernel's limit is an operator's to raise.
    let _ = socket.set_recv_buffer_size(UDP_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(UDP_BUFFER_BYTES);
    let granted = socket.recv_buffer_size().unwrap_or(0).min(socket.send_buffer_size().unwrap_or(0));
    if granted < UDP_BUFFER_BYTES {
        tracing::info!(
            granted_bytes = granted,
            wanted_bytes = UDP_BUFFER_BYTES,
            "the kernel grants the peer port smaller buffers than it asks for; raise net.core.rmem_max and wmem_max"
        );
    }
    socket.bind(&address.into()).map_err(failed)?;
    Ok(socket.into())
}
