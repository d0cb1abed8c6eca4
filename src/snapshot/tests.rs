use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use wal::fs::{Access, Fault, Fs, Loss, MemFs, Op};

use super::header::tests::header;
use super::part::CHUNK_BYTES;
use super::write::write_chunks;
use super::*;

const DIR: &str = "/snap";
const PATH: &str = "/snap/x.tmp";
const BODY: &[u8] = b"the state of the mac";
const CHUNK: usize = 8;
const GOLDEN: &[u8] = include_bytes!("../golden/snapshot-v1");

fn disk() -> (MemFs, Arc<dyn Fs>) {
    let mem = MemFs::new();
    mem.create_dir(Path::new(DIR)).unwrap();
    mem.sync_dir(Path::new("/")).unwrap();
    (mem.clone(), Arc::new(mem))
}

fn write_body(fs: &Arc<dyn Fs>, body: &[u8], chunk: usize) -> Result<SnapshotFile, Failure> {
    write_chunks(fs, Path::new(PATH), &header(), chunk, |to| to.write_all(body))
}

fn bytes_of(fs: &dyn Fs, path: &Path) -> Vec<u8> {
    wal::fs::read_file(fs, path, 1 << 30).unwrap()
}

/// The file that `body` is written as.
fn encoded(body: &[u8], chunk: usize) -> Vec<u8> {
    let (_, fs) = disk();
    bytes_of(&*fs, &write_body(&fs, body, chunk).unwrap().path)
}

fn put(fs: &dyn Fs, bytes: &[u8]) {
    let path = Path::new(PATH);
    if fs.exists(path).unwrap() {
        fs.remove_file(path).unwrap();
    }
    fs.create_new(path).unwrap().write_all_at(0, bytes).unwrap();
}

fn announced(bytes: &[u8]) -> Announced {
    let checksum = u64::from_le_bytes(*bytes.last_chunk().unwrap());
    Announced { cluster: header().cluster, bytes: bytes.len() as u64, checksum }
}

fn receive<'a>(
    fs: &Arc<dyn Fs>,
    announced: Announced,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Received, Failure> {
    let mut incoming = Incoming::begin(fs, Path::new(PATH), announced)?;
    for piece in pieces {
        incoming.write(piece)?;
    }
    incoming.finish()
}

/// What a reader gives before it ends or fails.
fn read_back(fs: &dyn Fs) -> (Vec<u8>, io::Result<()>) {
    let mut body = Vec::new();
    let result = Reader::open(fs, Path::new(PATH)).map_err(io::Error::from);
    let result = result.and_then(|mut reader| reader.read_to_end(&mut body));
    (body, result.map(|_| ()))
}

/// All three ways to read `bytes` refuse them, none gives a byte that is not `body`'s.
fn assert_refused(bytes: &[u8], truth: Announced, body: &[u8], what: &str) {
    let (_, fs) = disk();
    put(&*fs, bytes);
    let verified = verify(&*fs, Path::new(PATH), &|| false);
    assert!(matches!(verified, Err(Failure::Damaged { .. })), "{what}: {verified:?}");
    let (given, result) = read_back(&*fs);
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidData, "{what}");
    assert!(body.starts_with(&given), "{what}: gave {given:?}");
    let received = receive(&fs, truth, [bytes]);
    assert!(matches!(received, Err(Failure::Damaged { .. })), "{what}");
    assert!(fs.list(Path::new(DIR)).unwrap().is_empty(), "{what}");
}

/// Where the parts of a file begin, and where it ends.
fn bounds(bytes: &[u8]) -> Vec<usize> {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let mut bounds = vec![0, word(16)];
    while word(bounds[bounds.len() - 1]) != 0 {
        let at = bounds[bounds.len() - 1];
        bounds.push(at + 16 + word(at));
    }
    bounds.push(bytes.len());
    bounds
}

/// Snapshots outlive versions of this program and reach other members: the bytes are pinned. The
/// golden file was made by an implementation of its own.
#[test]
fn file_bytes_are_pinned() {
    assert_eq!(encoded(BODY, CHUNK), GOLDEN);
    let (_, fs) = disk();
    put(&*fs, GOLDEN);
    let found = verify(&*fs, Path::new(PATH), &|| false).unwrap();
    assert_eq!((&found.header, found.bytes), (&header(), GOLDEN.len() as u64));
    assert_eq!(found, write_body(&fs, BODY, CHUNK).unwrap());
    assert_eq!(
        found.marker.checksum.to_le_bytes(),
        header().encode().last_chunk().copied().unwrap()
    );
}

/// S1 for bodies of every length around the edges of a chunk: what comes back is what went in,
/// also by way of a peer, whatever pieces the network makes of it.
#[test]
fn body_comes_back_as_it_was_written() {
    let body: Vec<u8> = (0..600_000_u32).map(|n| ((n * 31) >> 3) as u8).collect();
    let mut seed = 1_usize;
    for length in [0, 1, 7, 8, 9, 16, 17, CHUNK_BYTES, CHUNK_BYTES + 1, body.len()] {
        let (body, chunk) = (&body[..length], if length < 20 { CHUNK } else { CHUNK_BYTES });
        let (_, fs) = disk();
        let written = write_body(&fs, body, chunk).unwrap();
        let (given, result) = read_back(&*fs);
        assert!(result.is_ok() && given == body, "length {length}");
        let outgoing = Outgoing::open(&*fs, &written.path).unwrap();
        let mut bytes = vec![0; usize::try_from(outgoing.len()).unwrap() + 1];
        assert_eq!(outgoing.read_at(0, &mut bytes).unwrap() as u64, outgoing.len());
        bytes.pop();
        let truth = announced(&bytes);
        assert_eq!((truth.bytes, truth.checksum), (outgoing.len(), outgoing.checksum()));
        let received = receive(&fs, truth, bytes.chunks(1)).unwrap();
        assert_eq!(received.file(), &written);
        let mut rest = &bytes[..];
        let pieces = std::iter::from_fn(|| {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let (now, later) = rest.split_at(rest.len().min(1 + (seed >> 40) % 70_000));
            rest = later;
            (!now.is_empty()).then_some(now)
        });
        let file = receive(&fs, truth, pieces).unwrap().accept();
        assert_eq!(file, written, "length {length}");
        assert_eq!(bytes_of(&*fs, &file.path), bytes);
    }
}

/// S1 at every byte where a file can end and at every bit that can flip.
#[test]
fn truncated_or_flipped_file_is_refused() {
    let truth = announced(GOLDEN);
    for length in 0..GOLDEN.len() {
        assert_refused(&GOLDEN[..length], truth, BODY, &format!("length {length}"));
    }
    for bit in 0..GOLDEN.len() * 8 {
        let mut damaged = GOLDEN.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert_refused(&damaged, truth, BODY, &format!("bit {bit}"));
    }
    for more in [&[0][..], &[0; 8], &[0; 24], GOLDEN] {
        assert_refused(&[GOLDEN, more].concat(), truth, BODY, &format!("{} more", more.len()));
    }
}

/// A chunk is valid in its place of its file only: also where chunks are equal, and where only
/// the header or a chunk before it differs.
#[test]
fn moved_chunk_is_refused() {
    let body = b"aaaaaaaabbbbbbbbaaaaaaaa";
    let bytes = encoded(body, CHUNK);
    let at = bounds(&bytes);
    let parts: Vec<&[u8]> = at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
    let mut other = header();
    other.index += 1;
    let (_, fs) = disk();
    let other = write_chunks(&fs, Path::new(PATH), &other, CHUNK, |to| to.write_all(body)).unwrap();
    let other = bytes_of(&*fs, &other.path);
    let other_header = &other[..bounds(&other)[1]];
    let [head, a, b, c, end] = parts[..] else { panic!("{} parts", parts.len()) };
    let table: [(&str, Vec<&[u8]>); 10] = [
        ("swapped", vec![head, b, a, c, end]),
        ("swapped with its equal", vec![head, c, b, a, end]),
        ("repeated", vec![head, a, a, b, c, end]),
        ("repeated at the end", vec![head, a, b, c, c, end]),
        ("first lost", vec![head, b, c, end]),
        ("middle lost", vec![head, a, c, end]),
        ("last lost", vec![head, a, b, end]),
        ("all lost", vec![head, end]),
        ("header of another", vec![other_header, a, b, c, end]),
        ("header twice", vec![head, head, a, b, c, end]),
    ];
    for (what, parts) in table {
        assert_refused(&parts.concat(), announced(&bytes), body, what);
    }
}

/// A transfer must be of the announced file, and of this cluster; what is refused or given up
/// leaves no file behind.
#[test]
fn transfer_that_is_not_the_announced_one_is_refused() {
    let truth = announced(GOLDEN);
    let table = [
        ("cluster", Announced { cluster: 1, ..truth }),
        ("longer", Announced { bytes: truth.bytes + 1, ..truth }),
        ("shorter", Announced { bytes: truth.bytes - 1, ..truth }),
        ("checksum", Announced { checksum: !truth.checksum, ..truth }),
    ];
    let (_, fs) = disk();
    for (what, announced) in table {
        let received = receive(&fs, announced, [GOLDEN]);
        assert!(matches!(received, Err(Failure::Damaged { .. })), "{what}");
        // A caller that goes on after the refusal gets no further.
        let mut incoming = Incoming::begin(&fs, Path::new(PATH), announced).unwrap();
        for byte in GOLDEN.chunks(1) {
            incoming.write(byte).ok();
        }
        assert!(incoming.finish().is_err(), "{what}");
    }
    let mut incoming = Incoming::begin(&fs, Path::new(PATH), truth).unwrap();
    incoming.write(&GOLDEN[..200]).unwrap();
    drop(incoming);
    drop(receive(&fs, truth, [GOLDEN]).unwrap());
    assert!(fs.list(Path::new(DIR)).unwrap().is_empty());
    receive(&fs, truth, [GOLDEN]).unwrap().accept();
    assert_eq!(fs.list(Path::new(DIR)).unwrap().len(), 1);
}

/// The consumer's failure and the disk's have different consequences, and a consumer cannot hide
/// the disk's.
#[test]
fn failure_of_the_state_is_told_from_the_disks() {
    let path = Path::new(PATH);
    let (mem, fs) = disk();
    let failed = write_chunks(&fs, path, &header(), CHUNK, |to| {
        to.write_all(BODY)?;
        Err(io::Error::other("no"))
    });
    assert!(matches!(failed, Err(Failure::State(_))), "{failed:?}");
    mem.inject(Op::Write, 1, Fault::Error(28));
    let failed = write_chunks(&fs, path, &header(), CHUNK, |to| {
        (0..9).for_each(|_| drop(to.write_all(BODY)));
        Ok(())
    });
    let text = failed.unwrap_err().to_string();
    assert!(text.starts_with("cannot write /snap/x.tmp: No space left"), "{text}");
    assert!(fs.list(Path::new(DIR)).unwrap().is_empty());
}

/// A consumer that panics while it writes leaves no file that nobody knows of.
#[test]
fn panic_of_the_state_removes_the_file() {
    let (_, fs) = disk();
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        write_chunks(&fs, Path::new(PATH), &header(), CHUNK, |_| panic!("the consumer's bug"))
    }));
    assert!(unwound.is_err() && fs.list(Path::new(DIR)).unwrap().is_empty());
}

type Make = fn(&Arc<dyn Fs>) -> Result<SnapshotFile, Failure>;

/// The two ways in which a file comes to its final name, over the remains of an earlier try.
const WAYS: [(&str, Make); 2] = [
    ("written", |fs| write_body(fs, BODY, CHUNK)?.give_final_name(&**fs)),
    ("received", |fs| {
        receive(fs, announced(GOLDEN), GOLDEN.chunks(60))?.accept().give_final_name(&**fs)
    }),
];

fn remains() -> (MemFs, Arc<dyn Fs>) {
    let (mem, fs) = disk();
    put(&mem, b"an earlier try");
    mem.sync_dir(Path::new(DIR)).unwrap();
    (mem, fs)
}

fn assert_final_is_whole(fs: &dyn Fs, what: &str) -> bool {
    let path = Path::new(DIR).join(header().file_name());
    let exists = fs.exists(&path).unwrap();
    if exists {
        let verified = verify(fs, &path, &|| false);
        assert!(verified.is_ok(), "{what}: {verified:?}");
    }
    exists
}

/// S3: whenever the power fails, and whatever the disk then lost, a file with a final name is
/// whole; and it is there once its maker was told so.
#[test]
fn crash_leaves_no_final_name_or_a_whole_file() {
    let losses = [Loss::Everything, Loss::Nothing].into_iter();
    let seeds = (0..20).flat_map(|seed| [Loss::Some(seed), Loss::Garbage(seed)]);
    let losses: Vec<Loss> = losses.chain(seeds).collect();
    for (way, make) in WAYS {
        let mut at = 0;
        loop {
            let (mem, fs) = remains();
            mem.inject(Op::Any, at, Fault::Stop);
            let made = make(&fs);
            for &loss in &losses {
                let what = format!("{way}, stopped at {at}, {loss:?}");
                let exists = assert_final_is_whole(&mem.crash(loss), &what);
                assert!(exists || made.is_err(), "{what}: reported but gone");
            }
            if made.is_ok() {
                break;
            }
            at += 1;
        }
        assert!(at > 5, "{way} has operations to stop at");
    }
}

/// S4: a full or failing disk is reported, whichever operation it hits, and what is left has no
/// final name. (The last operation syncs the directory: the file is whole then.)
#[test]
fn disk_failure_is_reported_and_leaves_no_final_name() {
    for (way, make) in WAYS {
        for code in [5, 28] {
            let (mem, fs) = remains();
            let before = mem.count(Op::Any);
            make(&fs).unwrap();
            let n_operations = mem.count(Op::Any) - before;
            for at in 0..n_operations {
                let what = format!("{way}, error {code} at {at}");
                let (mem, fs) = remains();
                mem.inject(Op::Any, at, Fault::Error(code));
                let made = make(&fs);
                assert!(matches!(made, Err(Failure::Disk { .. })), "{what}: {made:?}");
                let exists = assert_final_is_whole(&mem, &what);
                assert_eq!(exists, at == n_operations - 1, "{what}");
                let left = fs.list(Path::new(DIR)).unwrap().len();
                assert!(left == 0 || exists || at == 0 || at == n_operations - 2, "{what}");
            }
        }
    }
}

/// A purge takes a file's name while somebody reads it: the reader goes on.
#[test]
fn reader_survives_the_removal_of_its_file() {
    let (_, fs) = disk();
    let written = write_body(&fs, BODY, CHUNK).unwrap();
    let mut reader = Reader::open(&*fs, &written.path).unwrap();
    let mut first = [0; 3];
    reader.read_exact(&mut first).unwrap();
    fs.remove_file(&written.path).unwrap();
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert_eq!([&first[..], rest.as_bytes()].concat(), BODY);
}

/// A reader that failed keeps failing: a consumer that reads on does not take the rest for whole.
#[test]
fn failed_reader_stays_failed() {
    let (_, fs) = disk();
    put(&*fs, &GOLDEN[..GOLDEN.len() - 30]);
    let mut reader = Reader::open(&*fs, Path::new(PATH)).unwrap();
    let mut given = [0; 16];
    reader.read_exact(&mut given).unwrap();
    for _ in 0..3 {
        let error = reader.read(&mut given).unwrap_err().to_string();
        assert!(error.starts_with("/snap/x.tmp ends too early (at offset "), "{error}");
    }
}

/// S2: a length in the file or of the announcement alone makes nobody allocate.
#[test]
fn lengths_are_not_believed() {
    let mut huge = header().encode();
    huge[16..24].copy_from_slice(&(4_u64 << 20).to_le_bytes());
    let truth = Announced { cluster: 0xfeed, bytes: u64::MAX, checksum: 0 };
    let (_, fs) = disk();
    put(&*fs, &huge);
    assert!(verify(&*fs, Path::new(PATH), &|| false).is_err());
    let mut incoming = Incoming::begin(&fs, Path::new(PATH), truth).unwrap();
    incoming.write(&huge).unwrap();
    assert!(incoming.buffered() < 4096);

    let bytes = encoded(&vec![7; 5 << 20], CHUNK_BYTES);
    let mut incoming = Incoming::begin(&fs, Path::new(PATH), announced(&bytes)).unwrap();
    incoming.write(&bytes).unwrap();
    assert!(incoming.buffered() <= 4 << 20, "{}", incoming.buffered());
}

/// Reading a large file at the start can take a while: it can be stopped.
#[test]
fn verification_can_be_stopped() {
    let (_, fs) = disk();
    put(&*fs, GOLDEN);
    assert!(matches!(verify(&*fs, Path::new(PATH), &|| true), Err(Failure::Stopped)));
}

/// What may be removed from the directory is told by its name alone.
#[test]
fn names_are_told_apart() {
    let (term, index) = (3, 0x2a);
    assert_eq!(file_name(term, index), "0000000000000003-000000000000002a.snap");
    assert!(is_snapshot_name(&file_name(term, index)));
    assert!(is_snapshot_name(&temporary_name(term, index, 7)));
    for strange in ["notes.snap", "x.tmp", "0000000000000003-2a.snap", "", "a-b.snap.c.tmp"] {
        assert!(!is_snapshot_name(strange), "{strange}");
    }
}

/// How fast files are written, verified and received, beside a plain copy with one sync at the
/// end. `SNAPSHOT_MB` sets the size, `TMPDIR` the disk: in memory it shows the work alone.
#[test]
#[ignore = "a measurement: run it alone, with --nocapture"]
#[allow(clippy::print_stdout, reason = "a measurement reports to whoever runs it")]
fn throughput() {
    use std::time::Instant;
    use wal::fs::DiskFs;
    let megabytes = std::env::var("SNAPSHOT_MB").map_or(1024, |mb| mb.parse::<usize>().unwrap());
    let report = |what: &str, start: Instant| {
        let seconds = start.elapsed().as_secs_f64();
        println!("{what:38} {:7.0} MiB/s", megabytes as f64 / seconds);
    };
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Fs> = Arc::new(DiskFs);
    let record: Vec<u8> = (0..4096_u32).map(|n| ((n * n) >> 5) as u8).collect();
    for _ in 0..3 {
        let plain = disk.create_new(&dir.path().join("plain")).unwrap();
        let start = Instant::now();
        let piece = record.repeat(256);
        (0..megabytes as u64).for_each(|n| plain.write_all_at(n << 20, &piece).unwrap());
        plain.sync_all().unwrap();
        report("plain write by 1 MiB, one sync", start);
        disk.remove_file(&dir.path().join("plain")).unwrap();

        let start = Instant::now();
        let written = write(&disk, &dir.path().join("a.tmp"), &header(), |to| {
            (0..megabytes * 256).try_for_each(|_| to.write_all(&record))
        });
        report("write by records of 4 KiB", start);
        let written = written.unwrap();

        let start = Instant::now();
        verify(&*disk, &written.path, &|| false).unwrap();
        report("verify, cached", start);
        disk.open(&written.path, Access::Read).unwrap().forget_cache().unwrap();
        let start = Instant::now();
        verify(&*disk, &written.path, &|| false).unwrap();
        report("verify, from disk", start);

        let start = Instant::now();
        let mut reader = Reader::open(&*disk, &written.path).unwrap();
        io::copy(&mut reader, &mut io::sink()).unwrap();
        report("read", start);

        let outgoing = Outgoing::open(&*disk, &written.path).unwrap();
        let checksum = outgoing.checksum();
        let truth = Announced { cluster: header().cluster, bytes: outgoing.len(), checksum };
        let mut incoming = Incoming::begin(&disk, &dir.path().join("b.tmp"), truth).unwrap();
        let mut piece = vec![0; 64 << 10];
        let (mut at, start) = (0, Instant::now());
        while at < outgoing.len() {
            let n = outgoing.read_at(at, &mut piece).unwrap();
            incoming.write(&piece[..n]).unwrap();
            at += n as u64;
        }
        let received = incoming.finish().unwrap();
        report("receive by 64 KiB", start);
        drop(received);
        disk.remove_file(&written.path).unwrap();
    }
}
