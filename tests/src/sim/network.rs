//! The network between nodes: connections that come and go, and directed links that lose, repeat, delay and overtake.

use super::options::Options;
use super::random::Random;
use atoll_replication::LinkId;
use atoll_replication::wire::Message;
use std::collections::{BTreeMap, BTreeSet};

/// One connection between two nodes; each side knows it by a number of its own.
#[derive(Debug, Clone, Copy)]
pub struct Connection {
    /// Who dialled, and its number.
    pub a: (usize, LinkId),
    /// Who was dialled, and its number.
    pub b: (usize, LinkId),
}

/// What happens to one message.
#[derive(Debug, Default)]
pub struct Fate {
    /// When each copy arrives, in microseconds from now; empty: lost.
    pub arrivals_us: Vec<u64>,
    /// When the transport has taken it, in microseconds from now.
    pub taken_us: u64,
    /// Whether it arrives before something that left before it on the same connection.
    pub overtakes: bool,
}

/// The state of the network.
#[derive(Debug, Default)]
pub struct Network {
    connections: BTreeMap<u64, Connection>,
    by_side: BTreeMap<(usize, LinkId), u64>,
    next_link: u64,
    /// Directed pairs that carry nothing.
    cut: BTreeSet<(usize, usize)>,
    /// Until when a directed pair holds everything back.
    clogged: BTreeMap<(usize, usize), u64>,
    /// Ends of connections that broke with all that was under way to them.
    severed: BTreeSet<(usize, LinkId)>,
    /// For order: when the last message of a directed connection arrives.
    last_arrival_us: BTreeMap<(u64, usize, bool), u64>,
    /// Until when a directed connection is busy with what it was given.
    busy_until_us: BTreeMap<(u64, usize), u64>,
    /// When the last message of a directed connection arrives, whatever it is.
    last_of_all_us: BTreeMap<(u64, usize), u64>,
}

impl Network {
    /// Whether `from` reaches `to`.
    #[must_use]
    pub fn carries(&self, from: usize, to: usize) -> bool {
        !self.cut.contains(&(from, to))
    }

    /// Cuts one direction.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.cut.insert((from, to));
    }

    /// Heals everything.
    pub fn heal(&mut self) {
        self.cut.clear();
        self.clogged.clear();
    }

    /// Holds one direction back until a time.
    pub fn clog(&mut self, from: usize, to: usize, until_us: u64) {
        self.clogged.insert((from, to), until_us);
    }

    /// Whether some two nodes of `up` reach a third and not each other.
    #[must_use]
    pub fn is_partial(&self, up: &[usize]) -> bool {
        let both = |a, b| self.carries(a, b) && self.carries(b, a);
        up.iter().any(|b| {
            let near: Vec<_> = up.iter().filter(|a| *a != b && both(**a, *b)).collect();
            near.iter().any(|a| near.iter().any(|c| a != c && !both(**a, **c)))
        })
    }

    /// Some connection, as seen by one of its sides.
    pub fn any(&self, random: &mut Random) -> Option<(usize, LinkId)> {
        let sides: Vec<_> = self.by_side.keys().copied().collect();
        random.pick(&sides).copied()
    }

    /// What is under way to this end of a connection never arrives.
    pub fn sever(&mut self, node: usize, link: LinkId) {
        self.severed.insert((node, link));
    }

    /// Whether nothing arrives at this end any more.
    #[must_use]
    pub fn is_severed(&self, node: usize, link: LinkId) -> bool {
        self.severed.contains(&(node, link))
    }

    /// Whether the two have a connection.
    #[must_use]
    pub fn are_connected(&self, a: usize, b: usize) -> bool {
        self.connections.values().any(|c| (c.a.0 == a && c.b.0 == b) || (c.a.0 == b && c.b.0 == a))
    }

    /// Connects two; `a` dials. Gives the numbers of both sides.
    pub fn connect(&mut self, a: usize, b: usize) -> Connection {
        self.next_link += 2;
        let connection = Connection { a: (a, LinkId(self.next_link)), b: (b, LinkId(self.next_link + 1)) };
        self.connections.insert(self.next_link, connection);
        self.by_side.insert(connection.a, self.next_link);
        self.by_side.insert(connection.b, self.next_link);
        connection
    }

    /// The other side of a connection that stands.
    #[must_use]
    pub fn other_side(&self, node: usize, link: LinkId) -> Option<(usize, LinkId)> {
        let connection = self.connections.get(self.by_side.get(&(node, link))?)?;
        Some(if connection.a == (node, link) { connection.b } else { connection.a })
    }

    /// Ends a connection; gives the other side.
    pub fn disconnect(&mut self, node: usize, link: LinkId) -> Option<(usize, LinkId)> {
        let other = self.other_side(node, link)?;
        let id = self.by_side.remove(&(node, link))?;
        self.by_side.remove(&other);
        self.connections.remove(&id);
        Some(other)
    }

    /// Ends every connection of a node; gives the other sides.
    pub fn disconnect_all(&mut self, node: usize) -> Vec<(usize, LinkId)> {
        let sides: Vec<_> = self.by_side.keys().filter(|(side, _)| *side == node).copied().collect();
        sides.into_iter().filter_map(|(node, link)| self.disconnect(node, link)).collect()
    }

    /// Decides about one message from `from` over its `link`. A greeting is never repeated by a transport, and steps of a
    /// reconciliation never overtake each other: they have one stream.
    pub fn fate(
        &mut self,
        (from, link): (usize, LinkId),
        to: usize,
        message: &Message,
        now_us: u64,
        options: &Options,
        random: &mut Random,
    ) -> Fate {
        if !self.carries(from, to) || random.permille(options.loss) {
            return Fate::default();
        }
        let copies = 1 + usize::from(!matches!(message, Message::Hello(_)) && random.permille(options.duplication));
        let mut arrivals_us: Vec<_> =
            (0..copies).map(|_| random.between(options.delay_us.0, options.delay_us.1)).collect();
        let clear_us = self.clogged.get(&(from, to)).map_or(0, |until| until.saturating_sub(now_us));
        for arrival in &mut arrivals_us {
            *arrival = (*arrival).max(clear_us);
        }
        let taken_us = self.taken(from, link, message, now_us, options);
        arrivals_us.iter_mut().for_each(|arrival| *arrival += taken_us);
        let bulk = matches!(message, Message::Reconcile(_));
        if (bulk || !options.reorder)
            && let Some(id) = self.by_side.get(&(from, link))
        {
            let last = self.last_arrival_us.entry((*id, from, bulk && options.reorder)).or_default();
            for arrival in &mut arrivals_us {
                *last = (now_us + *arrival).max(*last);
                *arrival = *last - now_us;
            }
        }
        let mut overtakes = false;
        if let Some(id) = self.by_side.get(&(from, link)) {
            let last = self.last_of_all_us.entry((*id, from)).or_default();
            let first = arrivals_us.iter().min().map_or(0, |after| now_us + after);
            overtakes = first < *last;
            *last = arrivals_us.iter().max().map_or(0, |after| now_us + after).max(*last);
        }
        Fate { arrivals_us, taken_us, overtakes }
    }

    /// When a connection of bounded bandwidth has taken a message, after what it was given before.
    fn taken(&mut self, from: usize, link: LinkId, message: &Message, now_us: u64, options: &Options) -> u64 {
        let (Some(bandwidth), Some(id)) = (options.bandwidth, self.by_side.get(&(from, link))) else { return 0 };
        if message.weight() == 0 {
            // On a stream of its own.
            return 0;
        }
        let busy = self.busy_until_us.entry((*id, from)).or_default();
        *busy = now_us.max(*busy) + message.weight() as u64 * 1_000_000 / bandwidth;
        *busy - now_us
    }
}
