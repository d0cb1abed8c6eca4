//! How far the measurement is, on a terminal; nothing elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Seldom enough to cost nothing.
const REDRAW: Duration = Duration::from_millis(200);

/// One bar for all rounds, in milliseconds of load. It is on standard error, and stays away where that
/// is no terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// The bar of a measurement that loads for this long altogether.
    pub(crate) fn new(load: Duration) -> Progress {
        let bar = ProgressBar::new(load.as_millis() as u64);
        let style = ProgressStyle::with_template("{msg}  {bar:32} {percent:>3}%  {eta} left");
        bar.set_style(style.expect("the template is a constant"));
        Progress { bar }
    }

    /// Runs one round, of this length and name, as the next part of it.
    pub(crate) async fn during<T>(
        &self,
        name: String,
        length: Duration,
        round: impl Future<Output = T>,
    ) -> T {
        if self.bar.is_hidden() {
            return round.await;
        }
        self.bar.set_message(name);
        let (begins, position) = (Instant::now(), self.bar.position());
        let show = async {
            let mut ticks = tokio::time::interval(REDRAW);
            loop {
                ticks.tick().await;
                let passed = begins.elapsed().min(length);
                self.bar.set_position(position + passed.as_millis() as u64);
            }
        };
        let done = tokio::select! {
            biased;
            done = round => done,
            () = show => unreachable!("it is shown until the round is done"),
        };
        self.bar.set_position(position + length.as_millis() as u64);
        done
    }

    /// Prints something above the bar.
    pub(crate) fn above<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
