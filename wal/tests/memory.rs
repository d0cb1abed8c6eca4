//! What files in memory cost, and that a log lives in them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;

use common::{DIR, Hands, Model, create, deferred, open};
use wal::fs::{Access, Fault, Fs, Loss, MemFs, Op};

fn both() -> [MemFs; 2] {
    [MemFs::new(), MemFs::volatile()]
}

/// Allocation and zeros are free, and a sync leaves nothing behind: memory is what was written.
#[test]
fn a_file_takes_what_was_written_into_it() {
    for fs in both() {
        let path = Path::new("/file");
        let file = fs.create_new(path).unwrap();
        file.allocate(64 << 20).unwrap();
        file.write_all_at(0, &[0; 1 << 20]).unwrap();
        assert_eq!((file.size().unwrap(), fs.bytes()), (64 << 20, 0));
        for round in 1..=10 {
            file.write_all_at(1000, &[round; 5000]).unwrap();
            file.sync_data().unwrap();
            fs.sync_dir(Path::new("/")).unwrap();
            assert_eq!(fs.bytes(), 11 * 512);
        }
        let mut bytes = [1; 7000];
        assert_eq!(file.read_full_at(0, &mut bytes).unwrap(), 7000);
        assert_eq!((bytes[999], bytes[1000], bytes[5999], bytes[6000]), (0, 10, 10, 0));
        file.write_all_at(2000, &[0; 4000]).unwrap();
        file.read_full_at(1990, &mut bytes[..20]).unwrap();
        assert_eq!(bytes[..20], [[10; 10], [0; 10]].concat());
        file.set_size(1100).unwrap();
        file.set_size(9000).unwrap();
        assert_eq!(file.read_full_at(0, &mut bytes).unwrap(), 7000);
        assert_eq!((bytes[1099], bytes[1100], bytes[6999]), (10, 0, 0));
    }
}

/// What a failed sync has marked clean is read from the disk again where the cache was told to forget
/// it, and only there.
#[test]
fn a_cache_forgets_as_far_as_it_is_told() {
    let fs = MemFs::new();
    let file = fs.create_new(Path::new("/file")).unwrap();
    file.write_all_at(0, &[1; 3 * 512]).unwrap();
    file.sync_all().unwrap();
    file.write_all_at(0, &[2; 3 * 512]).unwrap();
    fs.inject(Op::Sync, 0, Fault::Error(5));
    file.sync_data().unwrap_err();
    let read = || {
        let mut bytes = [0; 3 * 512];
        file.read_full_at(0, &mut bytes).unwrap();
        [bytes[0], bytes[512], bytes[1024]]
    };
    assert_eq!(read(), [2, 2, 2]);
    file.forget_cache_before(2 * 512).unwrap();
    assert_eq!(read(), [1, 1, 2]);
    file.forget_cache().unwrap();
    assert_eq!(read(), [1, 1, 1]);
}

/// A removed file is there for whoever has it open, and its memory is free once nobody does and,
/// where there are crashes, none could bring it back.
#[test]
fn a_removed_file_is_gone_with_its_last_user() {
    for (fs, survives) in both().into_iter().zip([true, false]) {
        let (path, other) = (Path::new("/file"), Path::new("/other"));
        let root = Path::new("/");
        let file = fs.create_new(path).unwrap();
        file.write_all_at(0, &[1; 512]).unwrap();
        file.sync_all().unwrap();
        fs.sync_dir(root).unwrap();
        assert_eq!(fs.crash(Loss::Everything).exists(path).unwrap(), survives);
        fs.remove_file(path).unwrap();
        fs.sync_dir(root).unwrap();
        let reader = |bytes: &mut [u8]| file.read_full_at(0, bytes).unwrap();
        assert_eq!((reader(&mut [0; 9]), fs.bytes()), (9, 512));
        drop(file);
        assert_eq!(fs.bytes(), 0);

        // Replaced by a rename, with nobody using it.
        for name in [path, other] {
            fs.create_new(name).unwrap().write_all_at(0, &[2; 512]).unwrap();
        }
        fs.rename(path, other).unwrap();
        fs.sync_dir(root).unwrap();
        assert_eq!(fs.bytes(), 512);
        // Unlinked, the name not yet durably so.
        fs.open(other, Access::ReadWrite).unwrap().sync_all().unwrap();
        fs.remove_file(other).unwrap();
        assert_eq!(fs.bytes(), if survives { 512 } else { 0 });
        fs.sync_dir(root).unwrap();
        assert_eq!(fs.bytes(), 0);
    }
}

/// A log in volatile memory is a log in all but what a crash leaves, which is nothing.
#[test]
fn a_log_lives_in_volatile_memory() {
    let fs = MemFs::volatile();
    let steps = deferred();
    let models = Model::through(&steps);
    let mut wal = create(&fs).unwrap();
    let mut hands = Hands::default();
    for (step, model) in steps.iter().zip(&models[1..]) {
        hands.take(&mut wal, step).unwrap();
        assert!(model.is(&wal), "{wal:?}");
    }
    drop(wal);
    assert!(models[steps.len()].is(&open(&fs).unwrap().0));
    let _lock = fs.lock(&Path::new(DIR).join("LOCK")).unwrap();
    assert!(fs.lock(&Path::new(DIR).join("LOCK")).is_err());
    assert!(!fs.crash(Loss::Nothing).exists(Path::new(DIR)).unwrap());
}
