//! Launches in files: a child process launches, this one reads what it wrote.

mod driver;
mod launches;

use cuda_emulator_planted as planted;
use driver::{Device, ILLEGAL_ADDRESS};
use launches::{Launch, Memory};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

const N: usize = 100;
/// Set in a child.
const CHILD: &str = "DUMP_TEST_CHILD";
const DUMP: &str = "CUDA_EMULATOR_DUMP";

/// Whether this is the child.
fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// The test of this name in a process of its own, which sees [`is_child`].
fn child(test: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(CHILD, "1");
    for name in [DUMP, "CUDA_EMULATOR_DUMP_EVERY", "CUDA_EMULATOR_DUMP_BYTES"] {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied()).output().unwrap()
}

/// The files of a folder, by name.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entry = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
    };
    std::fs::read_dir(folder).unwrap().map(entry).collect()
}

/// The files of a child by serial number. Its process is the only one.
fn launches_of(test: &str, variables: &[(&str, &str)]) -> BTreeMap<u64, Launch> {
    let folder = tempfile::tempdir().unwrap();
    let variables = [variables, &[(DUMP, folder.path().to_str().unwrap())]].concat();
    let output = child(test, &variables);
    assert!(output.status.success(), "{output:?}");
    let files = files(folder.path());
    let (first, _) = files.first_key_value().and_then(|(name, _)| name.split_once('-')).unwrap_or_default();
    let launch = |(name, bytes): (&String, &Vec<u8>)| {
        let (process, serial) = name.strip_suffix(".launch").unwrap().split_once('-').unwrap();
        assert_eq!((process, serial.len()), (first, 7), "{name}");
        (serial.parse().unwrap(), Launch::read(bytes))
    };
    files.iter().map(launch).collect()
}

fn ramp() -> Vec<f32> {
    (0..N).map(|i| i as f32).collect()
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn every_field_is_that_of_the_launch() {
    if is_child() {
        let device = Device::open(0);
        let (x, y) = (device.put(&ramp()), device.alloc::<f32>(N + 1));
        assert_eq!(planted::launch_weigh(x, y, N as i32), 0);
        assert_eq!(planted::launch_copy(x, y, N as i32), 0);
        assert_eq!(planted::launch_stamped_copy(x, y, 1), 0);
        return;
    }
    let launches = launches_of("every_field_is_that_of_the_launch", &[]);
    let [weigh, copy, stamped] = [0, 1, 2].map(|serial| &launches[&serial]);
    assert_eq!(launches.len(), 3);

    assert_eq!((&*weigh.build, &*weigh.kernel), ("the planted kernels", "_ZL12weigh_kernelPKfPfi7Weights"));
    assert_eq!((weigh.grid, weigh.block), ([2, 3, 1], [32, 1, 1]));
    let Launch { cluster, cooperative, dynamic_shared, capability, code, .. } = *weigh;
    assert_eq!((cluster, cooperative, dynamic_shared, capability, code), (1, 0, 48, 90, 0));
    let weights = [&0.5f64.to_le_bytes()[..], &[1, 0, 2, 0, 3, 0]].concat();
    assert_eq!(weigh.arguments.iter().map(Vec::len).collect::<Vec<_>>(), [8, 8, 4, 16]);
    assert_eq!((&weigh.arguments[2], &weigh.arguments[3][..14]), (&vec![100, 0, 0, 0], &weights[..]));

    assert_eq!(weigh.allocations.len(), 2);
    let (x, y) = (weigh.argument(0), weigh.argument(1));
    let ramp = Memory { bytes: bytes_of(&ramp()), written: vec![1; 4 * N] };
    assert_eq!((&x.before, &x.after), (&ramp, &ramp));
    assert_eq!(y.before, Memory { bytes: vec![0xff; 4 * N + 4], written: vec![0; 4 * N + 4] });
    let weighed = self::ramp().iter().map(|value| 0.5 * value + 3.0).collect::<Vec<_>>();
    let (bytes, written) = ([bytes_of(&weighed), vec![0xff; 4]].concat(), [vec![1; 4 * N], vec![0; 4]].concat());
    assert_eq!(y.after, Memory { bytes, written });

    // The text is that of each translation unit, though their kernels have the same parameters.
    assert_eq!((&*copy.build, &*copy.kernel), ("", "_ZL11copy_kernelPKfPfi"));
    assert_eq!((&*stamped.build, &*stamped.kernel), ("the planted kernels", "_ZL19stamped_copy_kernelPKfPfi"));
    assert_eq!(copy.argument(1).before, weigh.argument(1).after);
}

#[test]
fn geometry_of_clusters_and_cooperative_grids() {
    if is_child() {
        let device = Device::open(0);
        let y = device.alloc::<u32>(8 * 32);
        assert_eq!(planted::launch_static_exchange(y, 4, 2, 0), 0, "{:?}", cuda_emulator::last_report());
        let device = Device::open(1);
        let (values, counter, y) = (device.alloc::<f32>(6), device.zeros(4), device.alloc::<f32>(6));
        assert_eq!(planted::launch_grid_barrier(values, counter, y, 3, 1, 0), 0);
        return;
    }
    let launches = launches_of("geometry_of_clusters_and_cooperative_grids", &[]);
    let geometry = |launch: &Launch| (launch.grid[0], launch.cluster, launch.cooperative, launch.capability);
    assert_eq!(launches.values().map(geometry).collect::<Vec<_>>(), [(4, 2, 0, 90), (3, 1, 1, 80)]);
}

#[test]
fn memory_of_all_threads_and_of_no_other_device() {
    if is_child() {
        Device::open(1).zeros(11);
        let device = Device::open(0);
        let freed = device.zeros(12);
        let (x, y) = (device.put(&ramp()), device.alloc::<f32>(N));
        std::thread::spawn(|| Device::open(0).zeros(13)).join().unwrap();
        assert_eq!(device.free(freed), 0);
        assert_eq!(planted::launch_copy(x, y, 1), 0);
        return;
    }
    let launches = launches_of("memory_of_all_threads_and_of_no_other_device", &[]);
    let mut sizes: Vec<_> = launches[&0].allocations.iter().map(|allocation| allocation.before.bytes.len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [13, 4 * N, 4 * N]);
}

#[test]
fn a_launch_that_fails_has_its_code() {
    if is_child() {
        let device = Device::open(0);
        let (x, y) = (device.put(&ramp()), device.alloc::<f32>(N + 1));
        // Refused: it is none.
        assert_ne!(planted::launch_geometry(y, 0, 32, 0), 0);
        assert_eq!(planted::launch_copy(x, y, N as i32 + 1), ILLEGAL_ADDRESS);
        return;
    }
    let launches = launches_of("a_launch_that_fails_has_its_code", &[]);
    assert_eq!(launches.values().map(|launch| launch.code).collect::<Vec<_>>(), [ILLEGAL_ADDRESS as u64]);
    assert_eq!(launches[&0].argument(0).after.bytes, bytes_of(&ramp()));
}

#[test]
fn one_launch_in_so_many_is_drawn() {
    let test = "one_launch_in_so_many_is_drawn";
    if is_child() {
        let device = Device::open(0);
        let (x, y) = (device.put(&ramp()), device.alloc::<f32>(N));
        (0..200).for_each(|_| assert_eq!(planted::launch_copy(x, y, 1), 0));
        return;
    }
    let drawn = |every| launches_of(test, &[("CUDA_EMULATOR_DUMP_EVERY", every)]).into_keys().collect::<Vec<_>>();
    let one_in_four = drawn("4");
    assert!((30..70).contains(&one_in_four.len()), "{one_in_four:?}");
    assert!(one_in_four.iter().any(|serial| serial % 4 != one_in_four[0] % 4), "{one_in_four:?}");
    assert_eq!(drawn("4"), one_in_four);
    for all in ["1", "0", ""] {
        assert_eq!(drawn(all), (0..200).collect::<Vec<_>>(), "{all:?}");
    }
}

#[test]
fn no_launch_with_more_bytes_than_asked_for() {
    let test = "no_launch_with_more_bytes_than_asked_for";
    if is_child() {
        let device = Device::open(0);
        let (x, y) = (device.put(&ramp()), device.alloc::<f32>(N));
        assert_eq!(planted::launch_copy(x, y, 1), 0);
        let more = device.alloc::<u8>(1);
        assert_eq!(planted::launch_copy(x, y, 2), 0);
        assert_eq!(device.free(more), 0);
        device.alloc::<u8>(64 << 20);
        assert_eq!(planted::launch_copy(x, y, 3), 0);
        return;
    }
    let written = |most| launches_of(test, &[("CUDA_EMULATOR_DUMP_BYTES", most)]).into_keys().collect::<Vec<_>>();
    assert_eq!(written("799"), [0; 0]);
    assert_eq!(written("800"), [0]);
    assert_eq!(written("801"), [0, 1]);
    assert_eq!(written("67109664"), [0, 1, 2]);
    assert_eq!(written(""), [0, 1]);
}

#[test]
fn no_folder_no_file() {
    let test = "no_folder_no_file";
    if is_child() {
        // Whatever is written to the folder at hand is seen.
        std::env::set_current_dir(std::env::var_os("DUMP_TEST_FOLDER").unwrap()).unwrap();
        let device = Device::open(0);
        assert_eq!(planted::launch_copy(device.put(&ramp()), device.alloc::<f32>(N), 1), 0);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = ("DUMP_TEST_FOLDER", folder.path().to_str().unwrap());
    for variables in [&[at][..], &[at, (DUMP, "")], &[at, (DUMP, ".")]] {
        let output = child(test, variables);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(files(folder.path()).len(), usize::from(variables.contains(&(DUMP, "."))));
    }
}

/// The lines that the device wrote to stderr.
fn said(output: &Output) -> Vec<&str> {
    assert!(output.status.success(), "{output:?}");
    let text = std::str::from_utf8(&output.stderr).unwrap();
    text.lines().filter(|line| line.starts_with("cuda-emulator:")).collect()
}

#[test]
fn a_file_that_cannot_be_written_is_said_once() {
    let test = "a_file_that_cannot_be_written_is_said_once";
    if is_child() {
        let device = Device::open(0);
        let (x, y) = (device.put(&ramp()), device.alloc::<f32>(N));
        assert_eq!(planted::launch_copy(x, y, N as i32), 0);
        assert_eq!(planted::launch_copy(x, y, N as i32), 0);
        assert_eq!(device.get::<f32>(y, N), ramp());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let output = child(test, &[(DUMP, missing.to_str().unwrap())]);
    let [line] = said(&output)[..] else { panic!("{output:?}") };
    assert!(line.contains(missing.to_str().unwrap()) && line.ends_with("-0000000.launch: No such file or directory"));

    // A file that may not grow, as on a full disk.
    let mut limited = Command::new("sh");
    let script = "trap '' XFSZ; ulimit -f 0; exec \"$0\" --exact \"$1\" --nocapture";
    limited.args(["-c", script]).arg(std::env::current_exe().unwrap()).arg(test);
    let output = limited.env(CHILD, "1").env(DUMP, folder.path()).output().unwrap();
    let [line] = said(&output)[..] else { panic!("{output:?}") };
    assert!(line.ends_with("-0000000.launch: File too large"), "{line}");
    assert_eq!(files(folder.path()), BTreeMap::new());
}

#[test]
fn a_process_that_ends_leaves_no_half_launch() {
    let test = "a_process_that_ends_leaves_no_half_launch";
    if is_child() {
        let device = Device::open(0);
        assert_eq!(planted::launch_copy(device.put(&ramp()), device.alloc::<f32>(N), 1), 0);
        unreachable!("{}", planted::launch_exit());
    }
    let folder = tempfile::tempdir().unwrap();
    let output = child(test, &[(DUMP, folder.path().to_str().unwrap())]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let files = files(folder.path());
    let (whole, half): (Vec<_>, Vec<_>) = files.keys().partition(|name| name.ends_with(".launch"));
    assert!(whole.len() == 1 && whole[0].ends_with("-0000000.launch"), "{whole:?}");
    assert!(half.len() == 1 && half[0].ends_with("-0000001.launch.partial"), "{half:?}");
}
