//! Models of candle-transformers with one or two lines changed, and one with its activations fused, held against themselves with
//! candle_nn's batch norm: values in inference and training, running statistics after a step, gradients; and the times of both, in
//! turns.

use std::hint::black_box;
use std::time::{Duration, Instant};

use candle::{DType, Device, Result, Tensor, Var};
use candle_batchnorm_models::{efficientnet, resnet};
use candle_nn::{Module, VarBuilder, VarMap};

const CLASSES: usize = 10;
const INPUT: [usize; 4] = [4, 3, 32, 32];
/// Those of EfficientNet that are tried. The others have a thousand groups a convolution, which candle computes one after the
/// other.
const STAGES: usize = 4;
const ROUNDS: usize = 3;

type Build = fn(VarBuilder<'static>) -> Result<Box<dyn Module>>;

/// A model with candle_nn's layers and one with ours, each for inference and for training.
struct Pair {
    name: &'static str,
    inference: [Build; 2],
    training: [Build; 2],
}

/// A model of given weights.
struct Subject {
    module: Box<dyn Module>,
    vars: Vec<(String, Var)>,
}

impl Subject {
    /// With the weights that have these names in any subject.
    fn new(build: Build, dtype: DType) -> Result<Self> {
        let map = VarMap::new();
        let module = build(VarBuilder::from_varmap(&map, dtype, &Device::Cpu))?;
        let mut vars: Vec<_> =
            map.data().lock().unwrap().iter().map(|(name, var)| (name.clone(), var.clone())).collect();
        vars.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (seed, (name, var)) in vars.iter().enumerate() {
            // Values of a layer's own scale: positive where they multiply channels or are their variance.
            let fan_in: usize = var.dims().iter().skip(1).product();
            let (scale, center) = match name.rsplit('.').next() {
                Some("running_var") => (0.5, 1.0),
                Some("weight") if var.rank() == 1 => (0.5, 1.0),
                Some("weight") => ((6.0 / fan_in as f64).sqrt(), 0.0),
                _ => (0.1, 0.0),
            };
            var.set(&(values(var.dims(), seed as u64, dtype)? * scale)?.affine(1.0, center)?)?;
        }
        Ok(Self { module, vars })
    }

    fn statistics(&self) -> impl Iterator<Item = &(String, Var)> {
        self.vars.iter().filter(|(name, _)| name.contains(".running_") || name.starts_with("running_"))
    }

    fn gradients(&self, x: &Tensor) -> Result<candle::backprop::GradStore> {
        self.module.forward(x)?.sqr()?.mean_all()?.backward()
    }
}

/// Values from -1 to 1 that are the same on every run.
fn values(dims: &[usize], seed: u64, dtype: DType) -> Result<Tensor> {
    let mut state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    let values: Vec<f64> = (0..dims.iter().product()).map(|_| next()).collect();
    Tensor::from_vec(values, dims, &Device::Cpu)?.to_dtype(dtype)
}

fn f64s(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// The largest of a tensor's absolute values.
fn largest(tensor: &Tensor) -> Result<f64> {
    tensor.abs()?.max_all()?.to_dtype(DType::F64)?.to_scalar()
}

/// Holds values against others, to within a part of the larger of their largest and `least_scale`. Returns the largest part.
#[track_caller]
fn close(name: &str, got: &Tensor, want: &Tensor, tolerance: f64, least_scale: f64) -> Result<f64> {
    assert_eq!((got.dims(), got.dtype()), (want.dims(), want.dtype()), "{name}");
    let scale = largest(want)?.max(least_scale);
    let mut most = 0.0;
    for (i, (got, want)) in f64s(got)?.into_iter().zip(f64s(want)?).enumerate() {
        let off = (got - want).abs() / scale;
        assert!(off <= tolerance, "{name}[{i}]: {got}, expected {want}, with {scale} the largest");
        most = f64::max(most, off);
    }
    Ok(most)
}

impl Pair {
    fn agrees(&self) -> Result<()> {
        let Self { name, .. } = self;
        let x = values(&INPUT, 1000, DType::F32)?;
        let [theirs, ours] = self.inference.map(|build| Subject::new(build, DType::F32));
        let (theirs, ours) = (theirs?, ours?);
        let of_names = |subject: &Subject| subject.vars.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(of_names(&ours), of_names(&theirs));
        let y = close("y in inference", &ours.module.forward(&x)?, &theirs.module.forward(&x)?, 1e-5, 0.0)?;
        println!("{name}: y in inference, f32: off by {y:.1e} of the largest");

        let [theirs, ours] = self.training.map(|build| Subject::new(build, DType::F32));
        let (theirs, ours) = (theirs?, ours?);
        let y = close("y in training", &ours.module.forward(&x)?, &theirs.module.forward(&x)?, 2e-5, 0.0)?;
        let (mut statistics, mut count) = (0f64, 0);
        for ((name, ours), (_, theirs)) in ours.statistics().zip(theirs.statistics()) {
            statistics = statistics.max(close(name, ours, theirs, 1e-5, 0.0)?);
            count += 1;
        }
        assert!(count >= 40, "{count}");
        println!("{name}: y in training, f32: off by {y:.1e}; {count} running statistics by {statistics:.1e}");

        let x = values(&INPUT, 1000, DType::F64)?;
        let [theirs, ours] = self.training.map(|build| Subject::new(build, DType::F64));
        let (theirs, ours) = (theirs?, ours?);
        let (got, want) = (ours.gradients(&x)?, theirs.gradients(&x)?);
        let (mut worst, mut count, mut scale) = (0f64, 0, 0f64);
        for (_, var) in &theirs.vars {
            scale = scale.max(want.get(var).map_or(Ok(0.0), largest)?);
        }
        for ((name, ours), (_, theirs)) in ours.vars.iter().zip(&theirs.vars) {
            assert_eq!(got.get(ours).is_some(), want.get(theirs).is_some(), "{name}");
            if let (Some(got), Some(want)) = (got.get(ours), want.get(theirs)) {
                // Some are 0 but for rounding: the next layer removes whatever this one adds.
                worst = worst.max(close(name, got, want, 1e-10, 1e-3 * scale)?);
                count += 1;
            }
        }
        assert!(count >= 60, "{count}");
        println!("{name}: {count} gradients, f64: off by {worst:.1e}");
        Ok(())
    }

    /// Prints the times of candle_nn over ours.
    fn compare_times(&self) -> Result<()> {
        let Self { name, .. } = self;
        let x = values(&INPUT, 1000, DType::F32)?;
        let of = |builds: [Build; 2]| {
            let [theirs, ours] = builds.map(|build| Subject::new(build, DType::F32));
            Ok::<_, candle::Error>([theirs?, ours?])
        };
        let (inference, training) = (of(self.inference)?, of(self.training)?);
        let forward = |subject: &Subject| subject.module.forward(&x).map(|y| drop(black_box(y)));
        let inference = ratio(&inference, forward)?;
        let forward = ratio(&training, forward)?;
        let both = ratio(&training, |subject| subject.gradients(&x).map(|gradients| drop(black_box(gradients))))?;
        // The profile has candle's own code at another level of optimization than this crate's: see Cargo.toml.
        let build = if cfg!(debug_assertions) {
            "a build for tests, in which candle is slower than released"
        } else {
            "release"
        };
        println!(
            "{name}: time with candle_nn's layers over time with ours, on the CPU, f32, {INPUT:?}, {build}: inference \
             {inference:.2}, training forward {forward:.2}, forward and backward {both:.2}"
        );
        Ok(())
    }
}

/// The least time of the first over that of the second, in turns.
fn ratio(subjects: &[Subject; 2], run: impl Fn(&Subject) -> Result<()>) -> Result<f64> {
    let mut least = [Duration::MAX; 2];
    for _ in 0..ROUNDS {
        for (least, subject) in least.iter_mut().zip(subjects) {
            let begin = Instant::now();
            run(subject)?;
            *least = begin.elapsed().min(*least);
        }
    }
    let ratio = least[0].as_secs_f64() / least[1].as_secs_f64();
    assert!(ratio.is_finite() && ratio > 0.0, "{least:?}");
    Ok(ratio)
}

macro_rules! resnet18 {
    ($variant:ident) => {
        |vb| Ok(Box::new(resnet::$variant::resnet18(CLASSES, vb)?))
    };
}

macro_rules! efficientnet {
    ($variant:ident) => {
        |vb| {
            use efficientnet::$variant::{EfficientNet, MBConvConfig};
            let stages = MBConvConfig::b0().into_iter().take(STAGES).collect();
            Ok(Box::new(EfficientNet::new(vb, stages, CLASSES)?))
        }
    };
}

const MODELS: [Pair; 3] = [
    Pair {
        name: "resnet18",
        inference: [resnet18!(theirs), resnet18!(ours)],
        training: [resnet18!(theirs_in_training), resnet18!(ours_in_training)],
    },
    Pair {
        name: "efficientnet b0, four stages",
        inference: [efficientnet!(theirs), efficientnet!(ours)],
        training: [efficientnet!(theirs_in_training), efficientnet!(ours_in_training)],
    },
    Pair {
        name: "efficientnet b0, four stages, silu fused",
        inference: [efficientnet!(theirs), efficientnet!(fused)],
        training: [efficientnet!(theirs_in_training), efficientnet!(fused_in_training)],
    },
];

#[test]
fn models_have_the_values_and_gradients_that_they_have_with_candle_nn() -> Result<()> {
    MODELS.iter().try_for_each(Pair::agrees)
}

/// The times are printed, and judged by nothing. `--test-threads 1` keeps the other test from running at the same time.
#[test]
fn times_in_turns() -> Result<()> {
    MODELS.iter().try_for_each(Pair::compare_times)
}
