//! `simulate`: a campaign of simulated clusters, or one of its seeds again.

use sim::run::{Setup, Trace};

#[expect(clippy::print_stdout, reason = "says what was found")]
fn main() {
    let args: Vec<u64> = std::env::args().skip(1).map(|a| a.parse().unwrap_or(0)).collect();
    let (first, n, ticks, n_members, trace) = (args[0], args[1], args[2], args[3], args[4]);
    let started = std::time::Instant::now();
    let mut all = sim::coverage::Coverage::default();
    let (mut ops, mut total) = (0, 0);
    for seed in first..first + n {
        let setup = Setup { seed, ticks, n_members };
        let trace = if trace == 1 { Trace::wanted() } else { Trace::default() };
        let (report, result) = sim::world::simulate(setup, trace);
        all.merge(&report.coverage);
        ops += report.ops;
        total += report.ticks;
        match result {
            Ok(hash) => {
                if n == 1 {
                    println!("{seed}: {hash:016x} {} ticks", report.ticks)
                }
            }
            Err(violation) => println!("seed {seed}: {violation}"),
        }
    }
    println!(
        "{all}{n} seeds {total} ticks {ops} ops, {:?}, {:.0}x",
        started.elapsed(),
        total as f64 / 100.0 / started.elapsed().as_secs_f64()
    );
}
