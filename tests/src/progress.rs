//! How far something long is: a bar on a terminal, a line now and then elsewhere. On standard
//! error.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often it is told: where lines are read, and where a bar can be drawn.
const LINE_EVERY: Duration = Duration::from_secs(10);
const BAR_EVERY: Duration = Duration::from_millis(200);
/// With what is told it fits into 80 columns.
const WIDTH: u64 = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Bar,
    Lines,
    Nothing,
}

/// Something that takes a known time, or is so many things.
#[derive(Debug)]
pub struct Progress {
    /// What each line begins with.
    prefix: &'static str,
    begin: Instant,
    length: Duration,
    form: Form,
    /// When it was told how far it was, since the beginning.
    told: Cell<Option<Duration>>,
}

impl Progress {
    /// It begins now.
    pub fn begin(prefix: &'static str, length: Duration) -> Progress {
        let form = if std::io::stderr().is_terminal() { Form::Bar } else { Form::Lines };
        Progress { prefix, begin: Instant::now(), length, form, told: Cell::default() }
    }

    /// It begins now, and nobody knows how long it takes: [`tell_of`](Self::tell_of) says how far it
    /// is.
    pub fn count(prefix: &'static str) -> Progress {
        Progress::begin(prefix, Duration::ZERO)
    }

    /// Nobody is told.
    pub fn untold() -> Progress {
        let mut progress = Progress::begin("", Duration::ZERO);
        progress.form = Form::Nothing;
        progress
    }

    /// Says what is to stay.
    pub fn say(&self, text: &str) {
        let prefix = self.prefix;
        match self.form {
            Form::Bar => write(&format!("\r\x1b[K{prefix}{text}\n")),
            Form::Lines => write(&format!("{prefix}{text}\n")),
            Form::Nothing => {}
        }
    }

    /// Tells how far it is, unless that was told just now. Wherever the bar would be drawn over it,
    /// nothing stays of that.
    pub fn tell(&self, text: &str) {
        let elapsed = self.begin.elapsed();
        let share = elapsed.as_secs_f64() / self.length.as_secs_f64().max(f64::EPSILON);
        if let Some(text) = self.told(elapsed, share, text) {
            write(&text);
        }
    }

    /// As [`tell`](Self::tell), when so many of all are done.
    pub fn tell_of(&self, n_done: usize, n_all: usize, text: &str) {
        let share = n_done as f64 / n_all.max(1) as f64;
        if let Some(text) = self.told(self.begin.elapsed(), share, text) {
            write(&text);
        }
    }

    fn told(&self, elapsed: Duration, share: f64, text: &str) -> Option<String> {
        let due = match (self.form, self.told.get()) {
            (Form::Nothing, _) => return None,
            (Form::Bar, told) => told.map_or(Duration::ZERO, |told| told + BAR_EVERY),
            (Form::Lines, told) => told.unwrap_or_default() + LINE_EVERY,
        };
        if elapsed < due {
            return None;
        }
        self.told.set(Some(elapsed));
        if self.form == Form::Bar {
            let full = (share * WIDTH as f64) as u64;
            let place = |at| if at < full { '#' } else { '.' };
            let bar: String = (0..WIDTH).map(place).collect();
            return Some(format!("\r[{bar}] {text}\x1b[K"));
        }
        Some(format!("{}{text}\n", self.prefix))
    }
}

/// A bar does not outlast what it is about.
impl Drop for Progress {
    fn drop(&mut self) {
        if self.form == Form::Bar {
            write("\r\x1b[K");
        }
    }
}

fn write(text: &str) {
    // Nobody is left to tell when standard error is closed.
    std::io::stderr().lock().write_all(text.as_bytes()).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(form: Form) -> Vec<String> {
        let mut progress = Progress::begin("x: ", Duration::from_secs(60));
        progress.form = form;
        let at = |ms: u64| {
            let share = ms as f64 / 60_000.0;
            progress.told(Duration::from_millis(ms), share, &format!("{ms} ms"))
        };
        [0, 100, 9_000, 9_199, 10_000, 12_000, 19_000, 30_000, 90_000]
            .into_iter()
            .filter_map(at)
            .collect()
    }

    /// One line that is drawn over on a terminal, and few lines elsewhere.
    #[test]
    fn a_bar_is_one_line_and_lines_are_few() {
        assert_eq!(told(Form::Lines), ["x: 10000 ms\n", "x: 30000 ms\n", "x: 90000 ms\n"]);
        assert!(told(Form::Nothing).is_empty());
        let bars = told(Form::Bar);
        assert_eq!(bars.len(), 7);
        assert!(bars.iter().all(|bar| bar.starts_with("\r[") && !bar.contains('\n')), "{bars:?}");
        assert_eq!(bars[5], format!("\r[{}{}] 30000 ms\x1b[K", "#".repeat(10), ".".repeat(10)));
        assert_eq!(bars[6], format!("\r[{}] 90000 ms\x1b[K", "#".repeat(20)));
    }
}
