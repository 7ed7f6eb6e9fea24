//! Files of launches, and what the program says of them.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use ptx_replay::launch::{Allocation, Contents, Launch};

/// A launch that stores 5 in the first word of its memory.
const PTX: &str = ".version 9.0\n.target sm_90\n.address_size 64\n.visible .entry five(\n.param .u64 five_param_0\n)\n{\n\
    .reg .b64 %d<2>;\nld.param.u64 %d1, [five_param_0];\nst.global.u32 [%d1], 5;\nret;\n}\n";

fn launch() -> Launch {
    let before = Contents { bytes: vec![1, 0, 0, 0, 2, 0, 0, 0], written: vec![1, 1, 1, 1, 0, 0, 0, 0] };
    let after = Contents { bytes: vec![5, 0, 0, 0, 2, 0, 0, 0], written: vec![1, 1, 1, 1, 0, 0, 0, 0] };
    Launch {
        sources: "12ab".into(),
        kernel: "five".into(),
        grid: [2, 1, 1],
        block: [1, 2, 1],
        cluster: 1,
        cooperative: true,
        shared_bytes: 48,
        capability: 90,
        parameters: vec![0x1000u64.to_le_bytes().to_vec()],
        allocations: vec![
            Allocation { address: 0x1000, before, after },
            Allocation { address: 0x1010, before: Contents::new(vec![7]), after: Contents::new(vec![7]) },
        ],
        code: 0,
    }
}

/// The bytes of a file, as `Launch::read` has them: numbers of 64 bits, texts and parameters behind their lengths, the addresses
/// and lengths of the allocations, then bytes and written of each before, and of each after.
fn encode(launch: &Launch) -> Vec<u8> {
    let mut file = b"CUDALNCH".to_vec();
    let number = |file: &mut Vec<u8>, number: u64| file.extend(number.to_le_bytes());
    number(&mut file, 1);
    for text in [&launch.sources, &launch.kernel] {
        number(&mut file, text.len() as u64);
        file.extend(text.as_bytes());
    }
    let geometry = launch.grid.iter().chain(&launch.block).chain([&launch.cluster]);
    geometry.for_each(|&n| number(&mut file, n.into()));
    number(&mut file, launch.cooperative.into());
    number(&mut file, launch.shared_bytes);
    number(&mut file, launch.capability.into());
    number(&mut file, launch.parameters.len() as u64);
    for parameter in &launch.parameters {
        number(&mut file, parameter.len() as u64);
        file.extend(parameter);
    }
    number(&mut file, launch.allocations.len() as u64);
    for allocation in &launch.allocations {
        number(&mut file, allocation.address);
        number(&mut file, allocation.before.bytes.len() as u64);
    }
    let all = launch.allocations.iter();
    for contents in all.clone().map(|a| &a.before).chain(all.map(|a| &a.after)) {
        file.extend(&contents.bytes);
        file.extend(&contents.written);
    }
    number(&mut file, launch.code);
    file.extend(b"ENDOFLNC");
    file
}

/// Why a launch with a change is refused.
fn refused(change: impl Fn(&mut Launch)) -> String {
    let mut launch = launch();
    change(&mut launch);
    Launch::read(&encode(&launch)).unwrap_err()
}

#[test]
fn a_file_is_read_as_it_was_written() {
    let (expected, got) = (launch(), Launch::read(&encode(&launch())).unwrap());
    assert_eq!(format!("{got:?}"), format!("{expected:?}"));
    assert_eq!((got.ctas(), got.threads()), (2, 2));
}

#[test]
fn every_prefix_is_refused() {
    let file = encode(&launch());
    for len in 0..file.len() {
        let what = Launch::read(&file[..len]).unwrap_err();
        assert!(what.starts_with("truncated: expected "), "{len} bytes: {what}");
        assert!(!what.contains('\n'), "{what}");
    }
}

#[test]
fn other_files_are_refused() {
    let file = encode(&launch());
    let with = |at: usize, byte: u8| {
        let mut file = file.clone();
        file[at] = byte;
        Launch::read(&file).unwrap_err()
    };
    assert_eq!(with(0, b'X'), "no launch of the emulated device: expected it to begin with CUDALNCH");
    assert_eq!(with(8, 2), "expected version 1 of the format, got 2");
    let end = file.len() - 8;
    assert_eq!(with(file.len() - 1, b'X'), format!("expected it to end with ENDOFLNC at byte {end}"));
    assert_eq!(
        Launch::read(&[&file[..], &[0]].concat()).unwrap_err(),
        format!("expected it to end with ENDOFLNC at byte {end}")
    );
    // The sources, whose length lies at 16 and whose text begins at 24; the grid's x at 48, above 32 bits.
    assert_eq!(with(24, 0xff), "expected UTF-8 at byte 24");
    assert_eq!(
        with(23, 0xff),
        format!("truncated: expected {} bytes at byte 24, got {}", (0xffu64 << 56) + 4, file.len() - 24)
    );
    assert_eq!(with(44, 1), "expected a number below 2^32 at byte 40, got 4294967298");
}

#[test]
fn what_no_device_launches_is_refused() {
    assert_eq!(refused(|l| l.grid = [0, 1, 1]), "a grid of [0, 1, 1] CTAs of [1, 2, 1] threads");
    assert_eq!(refused(|l| l.grid = [65536, 65536, 1]), "a grid of [65536, 65536, 1] CTAs of [1, 2, 1] threads");
    assert_eq!(refused(|l| l.block = [33, 32, 1]), "a grid of [2, 1, 1] CTAs of [33, 32, 1] threads");
    assert_eq!(refused(|l| l.block = [1, 0, 1]), "a grid of [2, 1, 1] CTAs of [1, 0, 1] threads");
    assert_eq!(refused(|l| l.cluster = 0), "2 CTAs in clusters of 0");
    assert_eq!(refused(|l| l.cluster = 4), "2 CTAs in clusters of 4");
    assert_eq!(refused(|l| l.shared_bytes = (1 << 20) + 1), "1048577 bytes of shared memory");
    assert_eq!(refused(|l| l.allocations[1].address = 0x1007), "allocations that overlap");
    assert_eq!(refused(|l| l.allocations[1].address = 0x1000), "allocations that overlap");
    assert_eq!(refused(|l| l.allocations[1].address = u64::MAX), "allocations that overlap");
    let mut beside = launch();
    beside.allocations[1].address = 0x1008;
    assert!(Launch::read(&encode(&beside)).is_ok());
}

/// The program with a text, and a launch of these bytes.
fn run(folder: &Path, ptx: &str, file: &[u8]) -> Output {
    let (text, launch) = (folder.join("a.ptx"), folder.join("a.launch"));
    fs::write(&text, ptx).unwrap();
    fs::write(&launch, file).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ptx-replay"));
    command.arg("run").arg("--ptx").arg(text).arg("--launches").arg(launch).output().unwrap()
}

/// One line on stderr with these words, and exit code 2.
#[track_caller]
fn refuses(ptx: &str, file: &[u8], words: &str) {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), ptx, file);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.starts_with("error: ") && told.contains(words), "expected {words:?} in {told}");
    assert_eq!(told.lines().count(), 1, "{told}");
}

#[test]
fn the_program_refuses_what_does_not_fit() {
    let file = encode(&launch());
    let other = format!("// sources: 34cd\n{PTX}");
    refuses(&other, &file, "a.launch: of another build: expected sources 34cd as in a.ptx, got 12ab");
    let mut without = launch();
    without.sources.clear();
    refuses(&other, &encode(&without), "expected sources 34cd as in a.ptx, got none");
    refuses(&PTX.replace("five", "four"), &file, "a.launch: no entry five in the PTX");
    let mut short = launch();
    short.parameters[0].truncate(4);
    refuses(PTX, &encode(&short), "a.launch: five: expected parameters of [8] bytes as in the PTX, got [4]");
    refuses(PTX, &file[..file.len() - 1], "a.launch: truncated: expected 8 bytes");
    refuses("no PTX", &file, "a.ptx: line 1: not known: no PTX");
}

/// 0 for equal memory, 1 for another value, for a byte that only one side has written, and for a trap.
#[test]
fn the_exit_code_says_whether_memory_is_equal() {
    let folder = tempfile::tempdir().unwrap();
    let code = |ptx: &str, change: &dyn Fn(&mut Launch)| {
        let mut launch = launch();
        change(&mut launch);
        let output = run(folder.path(), ptx, &encode(&launch));
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(code(PTX, &|_| ()).0, 0);
    assert_eq!(code(&format!("// sources: 12ab\n{PTX}"), &|_| ()).0, 0);
    let (number, told) = code(PTX, &|l| l.allocations[0].after.bytes[2] = 1);
    assert_eq!(number, 1);
    assert!(told.contains("DIFFERS") && told.contains("allocation 0 of 8 bytes, byte 2: 00000005"), "{told}");
    let (number, told) = code(PTX, &|l| l.allocations[0].after.written[4] = 1);
    assert_eq!(number, 1);
    assert!(told.contains("byte 4:") && told.contains("never written) here"), "{told}");
    let (number, told) = code(&PTX.replace("[%d1]", "[%d1+8]"), &|_| ());
    assert_eq!(number, 1);
    assert!(told.contains("TRAP") && told.contains("out of bounds: 4 bytes at 0x1008"), "{told}");
    let (number, told) = code(&PTX.replace("st.global.u32", "st.local.u32"), &|_| ());
    assert_eq!(number, 1);
    assert!(told.contains("UNKNOWN") && told.contains("a.ptx:10: not known: st.local.u32"), "{told}");
}

/// A launch that failed on the emulated device says nothing of the PTX.
#[test]
fn failed_launches_are_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let mut failed = launch();
    failed.code = 700;
    failed.allocations[0].after.bytes[0] = 9;
    let output = run(folder.path(), PTX, &encode(&failed));
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 skipped"), "{output:?}");
}
