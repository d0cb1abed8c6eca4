//! The format of version 1, pinned: bytes written by this program then must be read, and written
//! again, by this program now.
//!
//! `WAL_BLESS=1 cargo test -p wal --test golden` writes the files anew, which is only right in a
//! commit that raises the version or adds a file.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test panics and reports")]

mod common;

use std::path::{Path, PathBuf};

use common::{DIR, Model, create, open, script, take};
use wal::fs::{Access, DiskFs, Fs, MemFs, read_file};

const MAX: u64 = 1 << 20;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

fn sorted(fs: &dyn Fs, dir: &Path) -> Vec<std::ffi::OsString> {
    let mut names = fs.list(dir).unwrap();
    names.sort();
    names
}

fn written() -> MemFs {
    let fs = MemFs::new();
    let mut wal = create(&fs).unwrap();
    script()[..6].iter().for_each(|step| take(&mut wal, step).unwrap());
    fs
}

#[test]
fn the_golden_log_is_written_byte_for_byte() {
    let fs = written();
    let names = sorted(&fs, Path::new(DIR));
    assert!(names.len() > 1);
    if std::env::var_os("WAL_BLESS").is_some() {
        std::fs::create_dir_all(golden()).unwrap();
        for name in &names {
            let bytes = read_file(&fs, &Path::new(DIR).join(name), MAX).unwrap();
            std::fs::write(golden().join(name), bytes).unwrap();
        }
    }
    assert_eq!(names, sorted(&DiskFs, &golden()));
    for name in names {
        let now = read_file(&fs, &Path::new(DIR).join(&name), MAX).unwrap();
        let then = read_file(&DiskFs, &golden().join(&name), MAX).unwrap();
        let differs = now.iter().zip(&then).position(|(now, then)| now != then);
        assert_eq!((differs, now.len()), (None, then.len()), "{name:?}");
    }
}

#[test]
fn the_golden_log_is_read() {
    let fs = MemFs::new();
    fs.create_dir(Path::new(DIR)).unwrap();
    for name in sorted(&DiskFs, &golden()) {
        let bytes = read_file(&DiskFs, &golden().join(&name), MAX).unwrap();
        let path = Path::new(DIR).join(name);
        fs.create_new(&path).unwrap();
        fs.open(&path, Access::ReadWrite).unwrap().write_all_at(0, &bytes).unwrap();
    }
    let (wal, opened) = open(&fs).unwrap();
    assert_eq!(opened, wal::Opened::default());
    assert!(Model::through(&script()[..6])[6].is(&wal), "{wal:?}");
}
