//! A request's first line as it was sent.
//!
//! The target that hyper gives ends before a `#`, which no request may contain: a client that
//! forgets to encode one would silently write the key before it. Refuses to parse requests: it
//! knows where a line begins only when the client waited for the answer before it. In a pipelined
//! request a `#` is therefore not found; and what is found counts only when it fits what was parsed.

use hyper::{Method, Uri};

/// No head is longer.
const MAX_BYTES: usize = super::server::BUFFER_BYTES;

/// Reads along until the first line is complete.
#[derive(Debug, Default)]
pub(super) struct FirstLine {
    text: Vec<u8>,
    done: bool,
}

impl FirstLine {
    /// Takes what comes next; gives the line when it is complete and has a `#`.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        if self.done {
            return None;
        }
        let bytes = match self.text.as_slice() {
            // Empty lines before a request are allowed.
            [] => &bytes[bytes.iter().position(|b| !b"\r\n".contains(b)).unwrap_or(bytes.len())..],
            _ => bytes,
        };
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let line = &bytes[..end.unwrap_or(bytes.len())];
        self.done = end.is_some() || self.text.len() + line.len() > MAX_BYTES;
        if self.done && !self.text.contains(&b'#') && !line.contains(&b'#') {
            self.text = Vec::new();
            return None;
        }
        self.text.extend_from_slice(line);
        self.done.then(|| std::mem::take(&mut self.text))
    }
}

/// Whether this request's target was cut at a `#`, by the line that may be its first.
pub(super) fn was_cut(line: &[u8], method: &Method, uri: &Uri) -> bool {
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(first), Some(target)) = (words.next(), words.next()) else { return false };
    let Some(hash) = target.iter().position(|byte| *byte == b'#') else { return false };
    let parsed = uri.path_and_query().map_or("", |target| target.as_str());
    first == method.as_str().as_bytes() && target[..hash].ends_with(parsed.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However a line arrives, it is found where it is, and nothing else is.
    #[test]
    fn a_hash_in_the_first_line_is_found() {
        let table: [(&[u8], Option<&[u8]>); 6] = [
            (b"PUT /a#b HTTP/1.1\r\nX: y\r\n\r\n", Some(b"PUT /a#b HTTP/1.1\r")),
            (b"\r\n\r\nPUT /a# HTTP/1.1\nX: y\r\n\r\n", Some(b"PUT /a# HTTP/1.1")),
            (b"PUT /a HTTP/1.1\r\nX: #\r\n\r\n", None),
            (b"PUT /a HTTP/1.1\r\n\r\nPUT /a#b HTTP/1.1\r\n", None),
            (b"PUT /a#b HTTP/1.1", None),
            (b"\r\n", None),
        ];
        for (bytes, expected) in table {
            for step in [1, 2, 5, bytes.len()] {
                let mut first_line = FirstLine::default();
                let found: Vec<_> =
                    bytes.chunks(step).filter_map(|chunk| first_line.read(chunk)).collect();
                assert_eq!(found, Vec::from_iter(expected.map(<[u8]>::to_vec)), "{bytes:?}");
            }
        }
        let mut endless = FirstLine::default();
        let found = (0..1000).filter_map(|_| endless.read(&[b'#'; 1000])).count();
        assert!(found == 1 && endless.text.capacity() == 0, "it is bounded");
    }

    /// A line counts for the request that hyper made of it, and for no other.
    #[test]
    fn a_line_counts_for_its_own_request() {
        let uri = |text: &'static str| Uri::from_static(text);
        let table = [
            ("PUT /a#b HTTP/1.1", "/a", true),
            ("PUT /a?x=1#b HTTP/1.1", "/a?x=1", true),
            ("PUT http://h/a#b HTTP/1.1", "http://h/a", true),
            ("PUT /# HTTP/1.1", "/", true),
            ("GET /a#b HTTP/1.1", "/a", false),
            ("PUT /b#a HTTP/1.1", "/a", false),
            ("PUT /a HTTP/1.1 #", "/a", false),
            ("#", "/a", false),
        ];
        for (line, parsed, expected) in table {
            assert_eq!(was_cut(line.as_bytes(), &Method::PUT, &uri(parsed)), expected, "{line}");
        }
    }
}
