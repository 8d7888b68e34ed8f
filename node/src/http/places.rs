//! How many connections a listener holds, in all and from one address. H2

use crate::config::Limits;
use prometheus_client::metrics::gauge::Gauge;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// The places of one listener.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    taken: Arc<Mutex<Taken>>,
    gauge: Gauge,
    max: u32,
    max_per_ip: u32,
}

#[derive(Debug, Default)]
struct Taken {
    all: u32,
    by_ip: HashMap<IpAddr, u32>,
}

impl Places {
    pub(crate) fn new(limits: &Limits, gauge: Gauge) -> Self {
        Self { taken: Arc::default(), gauge, max: limits.connections, max_per_ip: limits.connections_per_ip }
    }

    /// What one more connection may have of `budget`, between two bounds: the more there are, the less each of the next gets.
    pub(crate) fn share(&self, budget: u64, least: u32, most: u32) -> u32 {
        let open = self.taken.lock().unwrap_or_else(PoisonError::into_inner).all;
        let share = budget / u64::from(open.max(1));
        u32::try_from(share).unwrap_or(u32::MAX).clamp(least, most)
    }

    /// A place for a connection from `ip`, if there is one left.
    pub(crate) fn take(&self, ip: IpAddr) -> Option<Place> {
        let ip = origin(ip);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let held = taken.by_ip.get(&ip).copied().unwrap_or(0);
        if taken.all >= self.max || held >= self.max_per_ip {
            return None;
        }
        taken.all += 1;
        taken.by_ip.insert(ip, held + 1);
        self.gauge.inc();
        Some(Place { places: self.clone(), ip })
    }
}

/// A connection's place; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Places,
    ip: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        if let Some(held) = taken.by_ip.get_mut(&self.ip) {
            *held -= 1;
            if *held == 0 {
                taken.by_ip.remove(&self.ip);
            }
        }
        self.places.gauge.dec();
    }
}

/// What counts as one address: of IPv6 the network, since one customer has 2^64 addresses.
fn origin(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_in_all_and_from_one_address_and_come_back() {
        let limits = Limits { connections: 3, connections_per_ip: 2, ..Limits::default() };
        let places = Places::new(&limits, Gauge::default());
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let one = places.take(ip("10.0.0.1")).unwrap();
        let two = places.take(ip("::ffff:10.0.0.1")).unwrap();
        assert!(places.take(ip("10.0.0.1")).is_none(), "two from one address");
        let three = places.take(ip("2001:db8::1")).unwrap();
        assert!(places.take(ip("10.0.0.2")).is_none(), "three in all");
        assert_eq!(places.gauge.get(), 3);
        drop(one);
        let four = places.take(ip("2001:db8::2")).unwrap();
        drop((two, three));
        assert!(places.take(ip("2001:db8::3")).is_some());
        drop(four);
        assert!(places.taken.lock().unwrap().by_ip.is_empty());
        assert_eq!(places.gauge.get(), 0);
    }
}
