//! Closing lines: the one line in which a campaign says what it did.

/// Numbers in a line: `{}` is one in plain digits, `{.}` may have a fraction.
#[derive(Debug, Clone, Copy)]
pub struct Template(pub &'static str);

impl Template {
    /// The numbers of a line that has this form to the letter; fractions are cut off.
    pub fn read(self, line: &str) -> Option<Vec<u64>> {
        let (mut form, mut rest, mut numbers) = (self.0, line, Vec::new());
        while let Some(at) = form.find('{') {
            rest = rest.strip_prefix(&form[..at])?;
            let takes_fraction = form[at..].starts_with("{.}");
            form = &form[at + if takes_fraction { 3 } else { 2 }..];
            let (number, after) = digits(rest)?;
            numbers.push(number);
            rest = after;
            if takes_fraction && let Some(fraction) = rest.strip_prefix('.') {
                (_, rest) = digits(fraction)?;
            }
        }
        (form == rest).then_some(numbers)
    }
}

fn digits(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}
