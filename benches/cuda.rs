//! The operations of a layer on a CUDA device, over the shapes of suites.json.
//!
//! `cargo bench --features cuda --bench cuda -- resnet50`. Times are those of the device, between two CUDA events around
//! as many operations as criterion asks for, one behind the other on one stream. So a tensor that fits into L2 is found
//! there, and where an operation takes the device less time than its launch takes the host, it is the launch that is
//! measured. Throughput counts each data tensor once, however often the kernels read it. This bench
//! is there to see what a change does. `batchnorm bench` measures an operation with a cold L2, its floor and its peers.
//!
//! Each measurement is also a line of a CSV file, by `BATCHNORM_BENCH_OUT=FILE`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use batchnorm::bench::{Pass, Row, Work, rows};
use batchnorm::{Compute, Cpu, Cuda, Element, Error, Layout, Shape, with_device_element};
use criterion::{Criterion, SamplingMode, Throughput};
use cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
use half::{bf16, f16};

/// The median of so many samples is what counts.
const SAMPLES: usize = 10;
/// 20 ms a sample, of which the half microsecond that events resolve is nothing.
const MEASURED: Duration = Duration::from_millis(200);
const WARM_UP: Duration = Duration::from_millis(50);

const COLUMNS: &str = "suite,name,n,c,s,layout,dtype,operation,iterations,microseconds,bytes,gigabytes_per_second";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let cuda = match Cuda::new(0) {
        Ok(cuda) => cuda,
        Err(error @ (Error::NoDriver { .. } | Error::NoDevice { .. })) => {
            if std::env::var("BATCHNORM_REQUIRE_GPU").is_ok_and(|value| value == "1") {
                return Err(format!("BATCHNORM_REQUIRE_GPU=1, and there is none: {error}").into());
            }
            println!("skipped: no CUDA device ({error})");
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    cuda.keep_memory()?;
    check::<f32>(&cuda)?;
    check::<f16>(&cuda)?;
    check::<bf16>(&cuda)?;
    if cuda.name()?.starts_with("emulated") {
        println!("skipped: the emulated device is never timed");
        return Ok(());
    }
    let mut table = match std::env::var_os("BATCHNORM_BENCH_OUT") {
        Some(path) => {
            let mut file = OpenOptions::new().create(true).append(true).open(path)?;
            if file.metadata()?.len() == 0 {
                writeln!(file, "{COLUMNS}")?;
            }
            Some(file)
        }
        None => None,
    };
    let criterion = Criterion::default().sample_size(SAMPLES).measurement_time(MEASURED).warm_up_time(WARM_UP);
    let mut criterion = criterion.nresamples(2000).configure_from_args();
    for row in rows()? {
        with_device_element!(
            row.dtype,
            T => measure::<T>(&mut criterion, &cuda, &row, table.as_mut())?,
            f64 => return Err(format!("{}: expected f32, f16 or bf16, got f64", row.name).into())
        );
    }
    criterion.final_summary();
    Ok(())
}

/// Every operation in this dtype, in both layouts, on shapes with whole vectors and without.
fn check<T: Element<Param = f32>>(cuda: &Cuda) -> Result<(), Box<dyn std::error::Error>>
where
    Cpu: Compute<T>,
    Cuda: Compute<T>,
{
    let small = [
        Shape::new(&[6, 16, 8, 8], Layout::ChannelsFirst),
        Shape::new(&[5, 3, 7, 7], Layout::ChannelsFirst),
        Shape::new(&[6, 8, 8, 16], Layout::ChannelsLast),
        Shape::new(&[5, 7, 7, 3], Layout::ChannelsLast),
    ];
    for shape in small {
        let mut work = Work::<Cuda, T>::new(cuda, shape?, 0, 1)?;
        Pass::ALL.into_iter().try_for_each(|operation| work.check(operation))?;
    }
    Ok(())
}

/// Times every operation on this row.
fn measure<T: Element<Param = f32>>(
    criterion: &mut Criterion,
    cuda: &Cuda,
    row: &Row,
    mut table: Option<&mut File>,
) -> Result<(), Box<dyn std::error::Error>>
where
    Cuda: Compute<T>,
{
    let Row { suite, name, shape, dtype, offset, .. } = row;
    let mut group = criterion.benchmark_group(format!("{suite}/{name} n={}", shape.n()));
    group.sampling_mode(SamplingMode::Flat);
    // Made when criterion first asks: a filter on the command line leaves most rows out.
    let mut work = None;
    for operation in Pass::ALL {
        let bytes = operation.bytes(row) as u64;
        group.throughput(Throughput::Bytes(bytes));
        let mut samples = Vec::new();
        let id = format!("{} {dtype} {}", operation.name(), shape.layout());
        group.bench_function(id, |bencher| {
            let work = work.get_or_insert_with(|| Work::<Cuda, T>::new(cuda, *shape, *offset, 1).expect("buffers"));
            work.prepare(operation).expect("a forward pass");
            bencher.iter_custom(|iterations| {
                let time = time(cuda, work, operation, iterations).expect("operations and events");
                samples.push((iterations, time));
                time
            });
        });
        if let (Some(table), false) = (table.as_mut(), samples.is_empty()) {
            let (iterations, seconds) = median(&samples);
            let (n, c, s, layout) = (shape.n(), shape.c(), shape.s(), shape.layout());
            let (operation, microseconds, rate) = (operation.name(), seconds * 1e6, bytes as f64 / seconds / 1e9);
            writeln!(
                table,
                "{suite},{name},{n},{c},{s},{layout},{dtype},{operation},{iterations},{microseconds:.3},{bytes},{rate:.1}"
            )?;
        }
    }
    group.finish();
    Ok(())
}

/// The time that the device takes for so many operations.
fn time<T: Element<Param = f32>>(
    cuda: &Cuda,
    work: &mut Work<Cuda, T>,
    operation: Pass,
    iterations: u64,
) -> Result<Duration, Box<dyn std::error::Error>>
where
    Cuda: Compute<T>,
{
    // An operation before the first event keeps the device at work while the host queues the ones that count.
    work.run(operation)?;
    let start = cuda.stream().record_event(Some(CU_EVENT_DEFAULT))?;
    for _ in 0..iterations {
        work.run(operation)?;
    }
    let end = cuda.stream().record_event(Some(CU_EVENT_DEFAULT))?;
    Ok(Duration::from_secs_f64(f64::from(start.elapsed_ms(&end)?) / 1e3))
}

/// Iterations and seconds an iteration of the middle sample. What criterion ran before the last samples was its warm-up.
fn median(samples: &[(u64, Duration)]) -> (u64, f64) {
    let measured = &samples[samples.len().saturating_sub(SAMPLES)..];
    let each = |&(iterations, time): &(u64, Duration)| (iterations, time.as_secs_f64() / iterations as f64);
    let mut times: Vec<(u64, f64)> = measured.iter().map(each).collect();
    times.sort_by(|a, b| a.1.total_cmp(&b.1));
    times[times.len() / 2]
}
