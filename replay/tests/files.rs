//! Files of launches, and what the program says of them.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use ptx_replay::compare::{Comparison, Halves, compare};
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

/// The message by which a launch with a change is refused.
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
    assert_eq!(refused(|l| (l.grid[0], l.cluster) = (32, 32)), "32 CTAs in clusters of 32");
    assert_eq!(refused(|l| l.grid[0] = (1 << 23) + 1), "a grid of [8388609, 1, 1] CTAs of [1, 2, 1] threads");
    assert_eq!(refused(|l| l.shared_bytes = (1 << 20) + 1), "1048577 bytes of shared memory");
    assert_eq!(refused(|l| l.allocations[1].address = 0x1007), "allocations that overlap");
    assert_eq!(refused(|l| l.allocations[1].address = 0x1000), "allocations that overlap");
    assert_eq!(refused(|l| l.allocations[1].address = u64::MAX), "allocations that overlap");
    let mut adjacent = launch();
    adjacent.allocations[1].address = 0x1008;
    assert!(Launch::read(&encode(&adjacent)).is_ok());
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
    refuses(&PTX.repeat(2), &file, "a.ptx: line 16: two entries five");
    refuses(&PTX.replace("size 64", "size 32"), &file, "a.ptx: not known: .address_size 32");
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

/// A launch that failed on the emulated device says nothing of the PTX. Where there is no other, nothing was shown.
#[test]
fn failed_launches_are_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let mut failed = launch();
    failed.code = 700;
    failed.allocations[0].after.bytes[0] = 9;
    refuses(PTX, &encode(&failed), "1 launches, none to execute");
    fs::write(folder.path().join("a.ptx"), PTX).unwrap();
    fs::write(folder.path().join("b.launch"), encode(&failed)).unwrap();
    fs::write(folder.path().join("c.launch"), encode(&launch())).unwrap();
    let output = in_folder(folder.path(), &["run"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 executions, drawn from 2 launches"), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 skipped"), "{output:?}");
}

/// The program with these words, `a.ptx` of a folder, and all launches of it.
fn in_folder(folder: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ptx-replay"));
    command.args(words).arg("--ptx").arg(folder.join("a.ptx")).arg("--launches").arg(folder).output().unwrap()
}

/// Nothing drawn, or nothing planted, would show nothing and end well.
#[test]
fn the_program_refuses_to_do_nothing() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.ptx"), PTX).unwrap();
    fs::write(folder.path().join("a.launch"), encode(&launch())).unwrap();
    for words in [&["run", "--most", "0"][..], &["faults", "--kernels", "0"], &["faults", "--filter", "no such fault"]]
    {
        let output = in_folder(folder.path(), words);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {output:?}");
    }
}

/// A folder that links lead to again, each of them doubling the ways to get there, counts once.
#[cfg(unix)]
#[test]
fn folders_that_contain_themselves() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.ptx"), PTX).unwrap();
    fs::create_dir(folder.path().join("b.launch")).unwrap();
    fs::write(folder.path().join("b.launch/a.launch"), encode(&launch())).unwrap();
    for name in ["x", "y", "b.launch/z"] {
        std::os::unix::fs::symlink(folder.path(), folder.path().join(name)).unwrap();
    }
    let output = in_folder(folder.path(), &["run"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 executions, drawn from 1 launches"), "{output:?}");
}

/// Line ends in the name of a kernel and in the text of an instruction.
#[test]
fn what_is_told_is_one_line() {
    let mut odd = launch();
    odd.kernel = "fi\nve".into();
    refuses(PTX, &encode(&odd), "no entry fi ve in the PTX");
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &PTX.replace(", 5;", ", 5\n"), &encode(&launch()));
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.starts_with("UNKNOWN") && told.lines().nth(1) == Some(""), "{told}");
}

/// Registers and shared memory of a whole grid.
#[test]
fn memory_that_no_machine_has_is_refused() {
    let mut large = launch();
    (large.grid, large.block) = ([1 << 14, 1, 1], [1024, 1, 1]);
    let ptx = PTX.replace("%d<2>", "%d<500000>");
    refuses(&ptx, &encode(&large), "bytes of registers and shared memory, too many to execute");
}

/// A NaN of arithmetic is the canonical one here; what only looks like one by its neighbour is compared.
#[test]
fn nans_hide_nothing() {
    let compared = |here: &[u8], there: &[u8], halves| {
        let allocation = Allocation { after: Contents::new(there.to_vec()), ..launch().allocations.remove(0) };
        let launch = Launch { allocations: vec![allocation], ..launch() };
        let Comparison { different, in_nans, .. } = compare(&launch, &[Contents::new(here.to_vec())], halves);
        (different, in_nans)
    };
    let words = |here: u32, there: u32, halves| compared(&here.to_le_bytes(), &there.to_le_bytes(), halves);
    assert_eq!(words(0x7fff_ffff, 0xffc0_0000, Halves::None), (0, 4));
    assert_eq!(words(0xffff_ffff, 0x7fc0_0000, Halves::None), (0, 4));
    assert_eq!(words(0x7fff_0001, 0xfe01_0001, Halves::F16), (0, 2));
    assert_eq!(words(0x0001_7fff, 0x0001_7fc0, Halves::Bf16), (0, 1));
    // The lower half next to an infinity or a NaN of bf16, and next to a NaN of f16.
    assert_eq!(words(0x7f80_3f80, 0x7f80_4000, Halves::Bf16), (2, 0));
    assert_eq!(words(0x7fff_3f80, 0x7fff_4000, Halves::Bf16), (2, 0));
    assert_eq!(words(0x7fff_3c00, 0x7fff_4000, Halves::F16), (1, 0));
    // Integers, and a NaN that only the emulated device could have made.
    assert_eq!(words(-3i32 as u32, -2i32 as u32, Halves::None), (1, 0));
    assert_eq!(words(0xffc0_0000, 0x7fc0_0000, Halves::None), (1, 0));
    assert_eq!(words(0x7fff_ffff, 0x7f80_0000, Halves::None), (3, 0));
}
