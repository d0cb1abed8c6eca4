//! What the client port counts, beside what the node does: requests by route and by the hundred
//! of their status. No label holds anything that a client chose.

use std::sync::OnceLock;
use std::time::Duration;

use hyper::StatusCode;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::patience::Stopwatch;

type Labels = [(&'static str, &'static str); 2];

/// The client port's counters, and the registry with everything that a scrape shows.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Labels, Counter>,
    times: Family<Labels, Histogram>,
    /// Those of puts and gets that succeed, which need not be looked up each time.
    usual: [OnceLock<(Counter, Histogram)>; 2],
    refusals: Histogram,
}

impl Metrics {
    /// Joins the node's own to those of a client port.
    #[must_use]
    pub fn new(node: &raftnode::Metrics) -> Self {
        let mut registry = Registry::default();
        node.register(&mut registry);
        let build = Info::new([("version", crate::cli::VERSION)]);
        registry.register("raftexample_build", "What runs", build);
        let requests = Family::<Labels, Counter>::default();
        registry.register("http_requests", "Requests of clients", requests.clone());
        // 100 µs to the usual request timeout and beyond.
        let times = Family::new_with_constructor(
            (|| Histogram::new(exponential_buckets(1e-4, 2.5, 13))) as fn() -> Histogram,
        );
        let help = "What answering a request took";
        registry.register_with_unit("http_request", help, Unit::Seconds, times.clone());
        // 1 ms is the aim, and whoever misses it wants to know by how much.
        let refusals = Histogram::new([
            50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 50e-3, 100e-3, 1.0,
        ]);
        let help = "What refusing a request for overload took, until its answer was written";
        registry.register_with_unit("http_refusal", help, Unit::Seconds, refusals.clone());
        Self { registry, requests, times, usual: Default::default(), refusals }
    }

    pub(super) fn answered(&self, route: &'static str, status: StatusCode, took: Duration) {
        let class = match status.as_u16() / 100 {
            2 => "2xx",
            4 => "4xx",
            5 => "5xx",
            _ => "other",
        };
        let labels = [("route", route), ("class", class)];
        let usual = match (route, class) {
            ("get", "2xx") => Some(&self.usual[0]),
            ("put", "2xx") => Some(&self.usual[1]),
            _ => None,
        };
        let look_up = || {
            let requests = self.requests.get_or_create(&labels).clone();
            (requests, self.times.get_or_create(&labels).clone())
        };
        let found;
        let (requests, times) = match usual {
            Some(usual) => usual.get_or_init(look_up),
            None => {
                found = look_up();
                &found
            }
        };
        requests.inc();
        times.observe(took.as_secs_f64());
    }

    /// Measures the refusals of one connection.
    pub(super) fn stopwatch(&self) -> Stopwatch {
        Stopwatch::new(self.refusals.clone())
    }

    /// What a scraper reads.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("a string takes every write");
        text
    }
}
