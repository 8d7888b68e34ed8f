//! Messages to bytes and back.
//!
//! Decoding borrows: one pass over the frame finds the parts as `&str` and `&[u8]`, and only what
//! has passed every bound becomes a message, as slices of the same frame.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use http::Method;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use super::{FrameError, Headers, Limits, Request, Response, Text};

/// Bytes of the length before every frame.
const LENGTH_BYTES: usize = 4;

/// Longest method; the longest registered one has 17 characters.
const METHOD_BYTES_MAX: usize = 32;

/// Appends a request's frame to `out`.
///
/// # Errors
/// When the frame would exceed `limits`; `out` is as it was.
pub fn encode_request(
    out: &mut BytesMut,
    method: &Method,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    limits: &Limits,
) -> Result<(), FrameError> {
    within(target.len(), limits.target_bytes_max, "bytes of target")?;
    encode(out, &Head::Request { method: method.as_str(), target }, headers, body, limits)
}

/// Appends an answer's frame to `out`.
///
/// # Errors
/// When the frame would exceed `limits`; `out` is as it was.
pub fn encode_response(
    out: &mut BytesMut,
    status: u16,
    headers: &[(&str, &str)],
    body: &[u8],
    limits: &Limits,
) -> Result<(), FrameError> {
    encode(out, &Head::Response { status }, headers, body, limits)
}

fn encode(
    out: &mut BytesMut,
    head: &Head<'_>,
    headers: &[(&str, &str)],
    body: &[u8],
    limits: &Limits,
) -> Result<(), FrameError> {
    within(headers.len(), limits.headers_max, "headers")?;
    within(header_bytes(headers), limits.header_bytes_max, "bytes of headers")?;
    let too_large = |bytes| FrameError::TooLarge { bytes, max: limits.frame_bytes_max };
    // Checked before copying a body that could not be sent anyhow.
    if body.len() > limits.frame_bytes_max {
        return Err(too_large(body.len()));
    }
    let start = out.len();
    out.reserve(LENGTH_BYTES + 64 + header_bytes(headers) + body.len());
    out.put_u32(0);
    let message = Outgoing { head, headers, body };
    let mut serializer = rmp_serde::Serializer::new((&mut *out).writer());
    let written = message.serialize(&mut serializer);
    let bytes = out.len() - start - LENGTH_BYTES;
    let outcome = match (written, u32::try_from(bytes)) {
        (Ok(()), Ok(length)) if bytes <= limits.frame_bytes_max => {
            out[start..start + LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
            return Ok(());
        }
        (Err(error), _) => FrameError::Malformed(error.to_string()),
        _ => too_large(bytes),
    };
    out.truncate(start);
    Err(outcome)
}

fn within(amount: usize, max: usize, what: &'static str) -> Result<(), FrameError> {
    if amount > max { Err(FrameError::TooMuch { what, max }) } else { Ok(()) }
}

fn header_bytes(headers: &[(&str, &str)]) -> usize {
    headers.iter().map(|(name, value)| name.len() + value.len()).sum()
}

/// What distinguishes the two kinds of message.
enum Head<'a> {
    Request { method: &'a str, target: &'a str },
    Response { status: u16 },
}

struct Outgoing<'a> {
    head: &'a Head<'a>,
    headers: &'a [(&'a str, &'a str)],
    body: &'a [u8],
}

impl Serialize for Outgoing<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let members = match self.head {
            Head::Request { .. } => 4,
            Head::Response { .. } => 3,
        };
        let mut map = serializer.serialize_map(Some(members))?;
        match self.head {
            Head::Request { method, target } => {
                map.serialize_entry("method", method)?;
                map.serialize_entry("target", target)?;
            }
            Head::Response { status } => map.serialize_entry("status", status)?,
        }
        map.serialize_entry("headers", &OutgoingHeaders(self.headers))?;
        map.serialize_entry("body", serde_bytes::Bytes::new(self.body))?;
        map.end()
    }
}

struct OutgoingHeaders<'a>(&'a [(&'a str, &'a str)]);

impl Serialize for OutgoingHeaders<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|&(name, value)| (name, value)))
    }
}

/// Reads a request from a frame without its length.
///
/// # Errors
/// When the bytes are not a request within `limits`.
pub fn decode_request(frame: &Bytes, limits: &Limits) -> Result<Request, FrameError> {
    let parts = decode(frame, limits)?;
    let (Some(method), Some(target)) = (parts.method, parts.target) else {
        return Err(malformed("a request needs method and target"));
    };
    within(target.len(), limits.target_bytes_max, "bytes of target")?;
    within(method.len(), METHOD_BYTES_MAX, "bytes of method")?;
    if !target.starts_with('/') {
        return Err(malformed("a target begins with /"));
    }
    Ok(Request {
        method: Method::from_bytes(method.as_bytes()).map_err(|_| malformed("the method"))?,
        target: text(frame, target, "the target")?,
        headers: headers(frame, &parts.headers)?,
        body: frame.slice_ref(parts.body),
    })
}

/// Reads an answer from a frame without its length.
///
/// # Errors
/// When the bytes are not an answer within `limits`.
pub fn decode_response(frame: &Bytes, limits: &Limits) -> Result<Response, FrameError> {
    let parts = decode(frame, limits)?;
    match parts.status {
        Some(status @ 100..=999) => {
            Ok(Response { status, headers: headers(frame, &parts.headers)?, body: frame.slice_ref(parts.body) })
        }
        _ => Err(malformed("an answer needs a status of 100 to 999")),
    }
}

fn malformed(what: &str) -> FrameError {
    FrameError::Malformed(what.to_owned())
}

fn text(frame: &Bytes, part: &str, what: &str) -> Result<Text, FrameError> {
    // F3
    Text::new(frame.slice_ref(part.as_bytes())).ok_or_else(|| malformed(&format!("{what} is not printable ASCII")))
}

fn headers(frame: &Bytes, parts: &[(&str, &str)]) -> Result<Headers, FrameError> {
    let mut headers = Vec::with_capacity(parts.len());
    for &(name, value) in parts {
        if name.is_empty() || name.bytes().any(|byte| matches!(byte, b' ' | b':')) {
            return Err(malformed("a header has no proper name"));
        }
        headers.push((text(frame, name, "a header")?, text(frame, value, "a header")?));
    }
    Ok(Headers(headers))
}

fn decode<'a>(frame: &'a [u8], limits: &Limits) -> Result<Parts<'a>, FrameError> {
    if frame.len() > limits.frame_bytes_max {
        return Err(FrameError::TooLarge { bytes: frame.len(), max: limits.frame_bytes_max });
    }
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(frame);
    deserializer.set_max_depth(Limits::DEPTH_MAX); // F2
    let parts = deserializer
        .deserialize_map(PartsVisitor { limits })
        .map_err(|error| FrameError::Malformed(error.to_string()))?;
    // The reader does not tell its position; that nothing more can be begun says the same.
    match deserializer.deserialize_any(IgnoredAny) {
        Err(rmp_serde::decode::Error::InvalidMarkerRead(end)) if end.kind() == std::io::ErrorKind::UnexpectedEof => {
            Ok(parts)
        }
        _ => Err(malformed("bytes after the message")),
    }
}

/// The parts of either kind of message, borrowed from the frame.
#[derive(Default)]
struct Parts<'a> {
    method: Option<&'a str>,
    target: Option<&'a str>,
    status: Option<u16>,
    headers: Vec<(&'a str, &'a str)>,
    body: &'a [u8],
}

struct PartsVisitor<'l> {
    limits: &'l Limits,
}

impl<'de> Visitor<'de> for PartsVisitor<'_> {
    type Value = Parts<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parts<'de>, A::Error> {
        let mut parts = Parts::default();
        let mut seen = 0_u8;
        while let Some(name) = map.next_key::<&str>()? {
            let bit = match name {
                "method" => 1,
                "target" => 2,
                "status" => 4,
                "headers" => 8,
                "body" => 16,
                _ => 0,
            };
            if seen & bit != 0 {
                return Err(A::Error::custom("a member twice"));
            }
            seen |= bit;
            match bit {
                1 => parts.method = Some(map.next_value()?),
                2 => parts.target = Some(map.next_value()?),
                4 => parts.status = Some(map.next_value()?),
                8 => {
                    let seed = HeadersSeed { limits: self.limits };
                    parts.headers = map.next_value_seed(seed)?;
                }
                16 => parts.body = map.next_value::<Body<'de>>()?.0,
                // F4
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(parts)
    }
}

/// A body is binary; nothing else will do.
struct Body<'a>(&'a [u8]);

impl<'de> Deserialize<'de> for Body<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BodyVisitor;
        impl<'de> Visitor<'de> for BodyVisitor {
            type Value = Body<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("binary")
            }

            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Body<'de>, E> {
                Ok(Body(bytes))
            }
        }
        deserializer.deserialize_any(BodyVisitor)
    }
}

struct HeadersSeed<'l> {
    limits: &'l Limits,
}

impl<'de> DeserializeSeed<'de> for HeadersSeed<'_> {
    type Value = Vec<(&'de str, &'de str)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeadersSeed<'_> {
    type Value = Vec<(&'de str, &'de str)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        // The claimed size is only a hint, and a hostile one may be huge.
        let mut headers = Vec::with_capacity(map.size_hint().unwrap_or(0).min(8));
        let mut bytes = 0;
        while let Some((name, value)) = map.next_entry::<&str, &str>()? {
            bytes += name.len() + value.len();
            if headers.len() == self.limits.headers_max || bytes > self.limits.header_bytes_max {
                return Err(A::Error::custom("more or longer headers than allowed"));
            }
            headers.push((name, value));
        }
        Ok(headers)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits =
        Limits { frame_bytes_max: 2_000, headers_max: 4, header_bytes_max: 200, target_bytes_max: 100 };

    fn request_frame() -> Bytes {
        let mut out = BytesMut::new();
        let headers = [("atoll-token", "t0"), ("content-type", "text/plain")];
        encode_request(&mut out, &Method::PUT, "/v1/a/registers/k?w=all", &headers, b"\x00\xffv", &LIMITS).unwrap();
        out.split_off(LENGTH_BYTES).freeze()
    }

    fn response_frame() -> Bytes {
        let mut out = BytesMut::new();
        encode_response(&mut out, 200, &[("atoll-region", "eu")], b"body", &LIMITS).unwrap();
        out.split_off(LENGTH_BYTES).freeze()
    }

    /// Builds MessagePack by hand, as another implementation might.
    fn pack(value: impl Serialize) -> Bytes {
        rmp_serde::to_vec_named(&value).unwrap().into()
    }

    #[test]
    fn request_round_trips() {
        let request = decode_request(&request_frame(), &LIMITS).unwrap();
        assert_eq!(request.method, Method::PUT);
        assert_eq!(request.target.as_str(), "/v1/a/registers/k?w=all");
        assert_eq!(request.headers.get("Atoll-Token"), Some("t0"));
        assert_eq!(request.headers.get("content-type"), Some("text/plain"));
        assert_eq!(request.headers.get("absent"), None);
        assert_eq!(request.body.as_ref(), b"\x00\xffv");
    }

    #[test]
    fn response_round_trips() {
        let response = decode_response(&response_frame(), &LIMITS).unwrap();
        assert_eq!((response.status, response.body.as_ref()), (200, b"body".as_ref()));
        assert_eq!(response.headers.iter().collect::<Vec<_>>(), [("atoll-region", "eu")]);
    }

    #[test]
    fn frame_is_a_length_and_a_map_with_binary_body() {
        let mut out = BytesMut::from("kept".as_bytes());
        encode_response(&mut out, 204, &[], b"", &LIMITS).unwrap();
        // 0x83: a map of three; 0xcc 204; 0x80: an empty map; 0xc4 0: empty binary.
        let map = b"\x83\xa6status\xcc\xcc\xa7headers\x80\xa4body\xc4\x00";
        assert_eq!(&out[..4], b"kept");
        assert_eq!(&out[4..8], (map.len() as u32).to_be_bytes());
        assert_eq!(&out[8..], map);
    }

    #[test]
    fn every_truncation_is_refused() {
        for (frame, is_request) in [(request_frame(), true), (response_frame(), false)] {
            for end in 0..frame.len() {
                let cut = frame.slice(..end);
                let refused = if is_request {
                    decode_request(&cut, &LIMITS).is_err()
                } else {
                    decode_response(&cut, &LIMITS).is_err()
                };
                assert!(refused, "{end} of {} bytes", frame.len());
            }
        }
    }

    #[test]
    fn every_single_changed_byte_is_read_or_refused_without_panic() {
        for frame in [request_frame(), response_frame()] {
            for at in 0..frame.len() {
                for byte in 0..=255 {
                    let mut changed = frame.to_vec();
                    changed[at] = byte;
                    let changed = Bytes::from(changed);
                    let _ = decode_request(&changed, &LIMITS);
                    let _ = decode_response(&changed, &LIMITS);
                }
            }
        }
    }

    #[test]
    fn unknown_members_are_skipped_and_absent_ones_are_empty() {
        #[derive(Serialize)]
        struct Newer {
            priority: Vec<(u8, String)>,
            method: &'static str,
            target: &'static str,
        }
        let frame = pack(Newer { priority: vec![(1, "x".into())], method: "GET", target: "/healthz" });
        let request = decode_request(&frame, &LIMITS).unwrap();
        assert_eq!(request.headers.iter().len(), 0);
        assert!(request.body.is_empty());
    }

    #[test]
    fn wrong_shapes_are_refused() {
        use serde_json::json;
        let cases = [
            json!([]),
            json!({}),
            json!({"method": "GET"}),
            json!({"target": "/"}),
            json!({"method": "GET", "target": "no-slash"}),
            json!({"method": "GET", "target": "/a b\n"}),
            json!({"method": "G T", "target": "/"}),
            json!({"method": "GET", "target": "/", "body": "text"}),
            json!({"method": "GET", "target": "/", "body": [1, 2]}),
            json!({"method": "GET", "target": "/", "headers": []}),
            json!({"method": "GET", "target": "/", "headers": {"a": 1}}),
            json!({"method": "GET", "target": "/", "headers": {"": "v"}}),
            json!({"method": "GET", "target": "/", "headers": {"a:": "v"}}),
            json!({"method": "GET", "target": "/", "headers": {"a": "v\r\nb: c"}}),
            json!({"method": "GET", "target": format!("/{}", "x".repeat(100))}),
            json!({"method": "GET", "target": "/", "headers": {"a": "x".repeat(200)}}),
            json!({"method": "GET", "target": "/",
                   "headers": {"a": "", "b": "", "c": "", "d": "", "e": ""}}),
            json!({"method": "M".repeat(33), "target": "/"}),
        ];
        for case in cases {
            assert!(decode_request(&pack(&case), &LIMITS).is_err(), "{case}");
        }
        for case in [json!({}), json!({"status": 99}), json!({"status": 1000}), json!({"status": "200"})] {
            assert!(decode_response(&pack(&case), &LIMITS).is_err(), "{case}");
        }
    }

    #[test]
    fn member_twice_and_bytes_after_the_map_are_refused() {
        let twice = b"\x82\xa6status\xcc\xc8\xa6status\xcc\xc8";
        assert!(decode_response(&Bytes::from_static(twice), &LIMITS).is_err());
        let mut trailing = response_frame().to_vec();
        trailing.push(0xc0);
        assert!(decode_response(&trailing.into(), &LIMITS).is_err());
    }

    #[test]
    fn deep_nesting_is_refused_before_the_stack_ends() {
        let mut frame = b"\x81\xa1x".to_vec();
        frame.extend(std::iter::repeat_n(0x91, 1_000_000));
        let limits = Limits { frame_bytes_max: frame.len(), ..LIMITS };
        assert!(matches!(
            decode_request(&frame.into(), &limits),
            Err(FrameError::Malformed(reason)) if reason.contains("depth")
        ));
    }

    #[test]
    fn claimed_sizes_allocate_nothing() {
        // A map of 2^32-1 headers and a binary of 2^32-1 bytes, both of which are not there.
        let headers = b"\x83\xa6status\xcc\xc8\xa7headers\xdf\xff\xff\xff\xff";
        let body = b"\x82\xa6status\xcc\xc8\xa4body\xc6\xff\xff\xff\xff";
        assert!(decode_response(&Bytes::from_static(headers), &LIMITS).is_err());
        assert!(decode_response(&Bytes::from_static(body), &LIMITS).is_err());
    }

    #[test]
    fn what_cannot_be_sent_leaves_the_buffer_as_it_was() {
        let mut out = BytesMut::from("kept".as_bytes());
        let body = vec![0; 1_990];
        assert!(matches!(
            encode_response(&mut out, 200, &[], &body, &LIMITS),
            Err(FrameError::TooLarge { max: 2_000, .. })
        ));
        let many = [("a", "b"); 5];
        assert!(encode_response(&mut out, 200, &many, b"", &LIMITS).is_err());
        assert_eq!(&out[..], b"kept");
    }

    #[test]
    fn header_values_stay_out_of_debug_output() {
        let mut out = BytesMut::new();
        encode_request(&mut out, &Method::GET, "/", &[("authorization", "Bearer s3cret")], b"", &LIMITS).unwrap();
        let request = decode_request(&out.split_off(LENGTH_BYTES).freeze(), &LIMITS).unwrap();
        let shown = format!("{request:?}");
        assert!(shown.contains("authorization") && !shown.contains("s3cret"), "{shown}");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let frame = Bytes::from(bytes);
            let _ = decode_request(&frame, &LIMITS);
            let _ = decode_response(&frame, &LIMITS);
        }

        #[test]
        fn what_is_encoded_decodes_to_itself(
            target in "/[!-~]{0,60}",
            headers in proptest::collection::vec(("[a-z-]{1,12}", "[ -~]{0,30}"), 0..4),
            body in proptest::collection::vec(any::<u8>(), 0..1000),
        ) {
            let borrowed: Vec<_> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            let mut out = BytesMut::new();
            encode_request(&mut out, &Method::POST, &target, &borrowed, &body, &LIMITS).unwrap();
            let request = decode_request(&out.split_off(LENGTH_BYTES).freeze(), &LIMITS).unwrap();
            prop_assert_eq!(request.target.as_str(), target);
            prop_assert_eq!(request.headers.iter().collect::<Vec<_>>(), borrowed);
            prop_assert_eq!(request.body, body);
        }
    }
}
