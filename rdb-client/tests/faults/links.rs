//! How stores reach each other, and how they are kept from it.

use crate::network::Network;
use crate::proxies::{Line, Proxies};

/// Links between stores. What one store sends to another can be lost; clients and the placement driver reach all stores
/// all the time.
pub(crate) enum Links {
    /// Packets are dropped.
    Namespaces(Network),
    /// Bytes are held back.
    Proxies(Proxies),
}

impl Links {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Namespaces(_) => "namespaces",
            Self::Proxies(_) => "proxies",
        }
    }

    /// Loses all that one store sends to another.
    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        match self {
            Self::Namespaces(network) => network.cut(from, to),
            Self::Proxies(proxies) => proxies.set(from, to, Line::Cut),
        }
    }

    /// Loses all that these stores send to each other.
    pub(crate) fn cut_both(&mut self, one: usize, other: usize) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Loses and delays nothing any more.
    pub(crate) fn mend(&mut self) {
        match self {
            Self::Namespaces(network) => network.mend(),
            Self::Proxies(proxies) => proxies.open_all(),
        }
    }

    /// Delays what one store sends to another. Only proxies can.
    pub(crate) fn slow_down(&self, from: usize, to: usize) {
        self.proxies().set(from, to, Line::Slow);
    }

    /// How often something was delayed.
    pub(crate) fn delayed(&self) -> u64 {
        self.proxies().delayed()
    }

    fn proxies(&self) -> &Proxies {
        match self {
            Self::Proxies(proxies) => proxies,
            Self::Namespaces(_) => panic!("the setup asks for no proxies"),
        }
    }
}
