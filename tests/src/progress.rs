//! How far something long is: a bar on a terminal, a line now and then elsewhere. On standard
//! error.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often it is told where lines are read.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// With what is told it fits into 80 columns.
const WIDTH: u64 = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Bar,
    Lines,
    Nothing,
}

/// Something that takes a known time.
#[derive(Debug)]
pub struct Progress {
    /// What each line begins with.
    prefix: &'static str,
    begin: Instant,
    length: Duration,
    form: Form,
    /// When a line told how far it was, since the beginning.
    told: Cell<Duration>,
}

impl Progress {
    /// It begins now.
    pub fn begin(prefix: &'static str, length: Duration) -> Progress {
        let form = if std::io::stderr().is_terminal() { Form::Bar } else { Form::Lines };
        Progress { prefix, begin: Instant::now(), length, form, told: Cell::default() }
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

    /// Tells how far it is. Wherever the bar would be drawn over it, nothing stays of that.
    pub fn tell(&self, text: &str) {
        if let Some(text) = self.told(self.begin.elapsed(), text) {
            write(&text);
        }
    }

    fn told(&self, elapsed: Duration, text: &str) -> Option<String> {
        if self.form == Form::Bar {
            let share = elapsed.as_secs_f64() / self.length.as_secs_f64().max(f64::EPSILON);
            let full = (share * WIDTH as f64) as u64;
            let place = |at| if at < full { '#' } else { '.' };
            let bar: String = (0..WIDTH).map(place).collect();
            return Some(format!("\r[{bar}] {text}\x1b[K"));
        }
        if self.form == Form::Nothing || elapsed < self.told.get() + LINE_EVERY {
            return None;
        }
        self.told.set(elapsed);
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
        let at = |second| progress.told(Duration::from_secs(second), &format!("{second} s"));
        [1, 9, 10, 12, 19, 31, 90].into_iter().filter_map(at).collect()
    }

    /// One line that is drawn over on a terminal, and few lines elsewhere.
    #[test]
    fn a_bar_is_one_line_and_lines_are_few() {
        assert_eq!(told(Form::Lines), ["x: 10 s\n", "x: 31 s\n", "x: 90 s\n"]);
        assert!(told(Form::Nothing).is_empty());
        let bars = told(Form::Bar);
        assert_eq!(bars.len(), 7);
        assert!(bars.iter().all(|bar| bar.starts_with("\r[") && !bar.contains('\n')), "{bars:?}");
        assert_eq!(bars[5], format!("\r[{}{}] 31 s\x1b[K", "#".repeat(10), ".".repeat(10)));
        assert_eq!(bars[6], format!("\r[{}] 90 s\x1b[K", "#".repeat(20)));
    }
}
