//! Candle's operations in the place of the kernels, as a layer on Metal has them, held against the kernels of the CPU.

use std::sync::Arc;

use batchnorm::{Activation, Dtype, Epilogue, NonFinite, RunningVar};
use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{ModuleT, VarBuilder, VarMap};

use super::{BatchNorm, Inner};
use crate::placement::Placement;
use crate::{Config, batch_norm};

const C: usize = 3;

/// Values between -1 and 1, the same on every run.
fn values(dims: &[usize], seed: f64, dtype: DType) -> Result<Tensor> {
    let len = dims.iter().product::<usize>();
    Tensor::arange(0.0, len as f64, &Device::Cpu)?.affine(1.7, seed)?.sin()?.reshape(dims)?.to_dtype(dtype)
}

fn f64s(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

#[track_caller]
fn close(name: &str, got: &Tensor, want: &Tensor, tolerance: f64) -> Result<()> {
    assert_eq!((got.dims(), got.dtype()), (want.dims(), want.dtype()), "{name}");
    for (i, (got, want)) in f64s(got)?.into_iter().zip(f64s(want)?).enumerate() {
        let is_same = got == want || got.is_nan() && want.is_nan();
        assert!(
            is_same || (got - want).abs() <= tolerance * want.abs().max(1.0),
            "{name}[{i}]: {got}, expected {want}"
        );
    }
    Ok(())
}

/// A layer by the kernels, or by candle's operations, and its variables.
struct Subject {
    norm: BatchNorm,
    vars: VarMap,
}

impl Subject {
    fn both(config: Config, dtype: DType) -> Result<[Self; 2]> {
        let by_kernels = Self::by_kernels(config, dtype)?;
        let Self { norm, vars } = Self::by_kernels(config, dtype)?;
        let inner = Arc::into_inner(norm.inner).ok_or_else(|| candle_core::Error::msg("the layer is shared"))?;
        let norm = BatchNorm { inner: Arc::new(Inner { placement: Placement::Composite, ..inner }) };
        Ok([by_kernels, Self { norm, vars }])
    }

    fn by_kernels(config: Config, dtype: DType) -> Result<Self> {
        let mut vars = VarMap::new();
        let norm = batch_norm(C, config, VarBuilder::from_varmap(&vars, dtype, &Device::Cpu))?;
        let dtype = norm.running_mean().dtype();
        for (i, name) in ["running_mean", "running_var", "weight", "bias"].into_iter().enumerate() {
            // Weights that lead to values of all parts of an activation.
            let scale = if name == "weight" { 4.0 } else { 1.0 };
            vars.set_one(name, (values(&[C], i as f64, dtype)? + 1.5)?.affine(scale, 0.0)?)?;
        }
        Ok(Self { norm, vars })
    }

    fn var(&self, name: &str) -> Result<Var> {
        let vars = self.vars.data().lock().map_err(|error| candle_core::Error::msg(error.to_string()))?;
        vars.get(name).cloned().ok_or_else(|| candle_core::Error::msg(format!("no {name}")))
    }

    /// The result, gradients and statistics of a step.
    fn step(&self, epilogue: Epilogue<()>, [x, z, dy]: [&Tensor; 3], train: bool) -> Result<Vec<(String, Tensor)>> {
        let [x, z] = [Var::from_tensor(x)?, Var::from_tensor(z)?];
        let y = match epilogue.residual() {
            None => self.norm.activate(&x, epilogue.activation(), train)?,
            Some(()) => self.norm.add_activate(&x, &z, epilogue.activation(), train)?,
        };
        assert!(y.is_contiguous());
        let gradients = (&y * dy)?.sum_all()?.backward()?;
        let mut results = vec![("y".to_owned(), y)];
        for (name, var) in [("x", x), ("z", z), ("weight", self.var("weight")?), ("bias", self.var("bias")?)] {
            results.extend(gradients.get(&var).map(|gradient| (format!("d{name}"), gradient.clone())));
        }
        for name in ["running_mean", "running_var"] {
            results.push((name.to_owned(), self.var(name)?.as_tensor().copy()?));
        }
        Ok(results)
    }
}

#[test]
fn candles_operations_have_the_values_gradients_and_statistics_of_the_kernels() -> Result<()> {
    for &dtype in Dtype::ALL {
        let tolerance = match dtype {
            Dtype::F64 => 1e-12,
            Dtype::F32 => 5e-6,
            Dtype::F16 => 2e-3,
            Dtype::Bf16 => 1.6e-2,
            other => panic!("a tolerance for {other}"),
        };
        let dtype: DType = dtype.name().parse().map_err(candle_core::Error::wrap)?;
        for dims in [&[6, C][..], &[4, C, 5], &[2, C, 4, 3]] {
            let [x, z, dy] = [values(dims, 10.0, dtype)?, values(dims, 20.0, dtype)?, values(dims, 30.0, dtype)?];
            // Channels-last in memory, which is no shape of its own.
            let x = x.transpose(0, 1)?.contiguous()?.transpose(0, 1)?;
            for &epilogue in Epilogue::ALL {
                for train in [true, false] {
                    let [kernels, composite] = Subject::both(Config::from(1e-3).momentum(0.3), dtype)?;
                    let want = kernels.step(epilogue, [&x, &z, &dy], train)?;
                    let got = composite.step(epilogue, [&x, &z, &dy], train)?;
                    assert_eq!(got.len(), want.len());
                    assert_eq!(got.len(), if epilogue.residual().is_some() { 7 } else { 6 });
                    for ((name, got), (_, want)) in got.iter().zip(&want) {
                        let name = format!("{dims:?} {dtype:?} {} train={train}: {name}", epilogue.name());
                        close(&name, got, want, tolerance)?;
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn where_a_derivative_jumps_it_is_that_of_the_y_that_is_stored() -> Result<()> {
    // bf16 has steps of 1/32 there: 5.99 is stored as 6.
    for bias in [5.99, 5.98, 1e-41, 1e-40] {
        let [kernels, composite] = Subject::both(Config::from(0.0), DType::BF16)?;
        for subject in [&kernels, &composite] {
            for (name, value) in [("running_mean", 0.0), ("running_var", 1.0), ("weight", 1.0), ("bias", bias)] {
                subject.var(name)?.set(&Tensor::full(value as f32, C, &Device::Cpu)?)?;
            }
        }
        let (x, dy) = (Tensor::zeros((1, C), DType::BF16, &Device::Cpu)?, values(&[1, C], 2.0, DType::BF16)?);
        for epilogue in [Epilogue::RELU, Epilogue::RELU6] {
            let want = kernels.step(epilogue, [&x, &x, &dy], false)?;
            let got = composite.step(epilogue, [&x, &x, &dy], false)?;
            for ((name, got), (_, want)) in got.iter().zip(&want) {
                close(&format!("{bias} {}: {name}", epilogue.name()), got, want, 1e-3)?;
            }
        }
    }
    Ok(())
}

#[test]
fn candles_operations_move_the_statistics_as_the_settings_say() -> Result<()> {
    let config = Config::from(1e-3);
    let settings = [0.0, 0.3, 1.0].map(|momentum| config.momentum(momentum));
    let settings = settings.into_iter().flat_map(|config| {
        [RunningVar::Unbiased, RunningVar::Biased].into_iter().flat_map(move |running_var| {
            [NonFinite::Propagate, NonFinite::Skip].map(|it| config.running_var(running_var).non_finite(it))
        })
    });
    let finite = values(&[4, C, 2], 10.0, DType::F32)?;
    for config in settings {
        // A value of the second channel: the others are to move as ever.
        for value in [0.5, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e38] {
            let is_there = Tensor::arange(0u32, 24, &Device::Cpu)?.eq(3u32)?.reshape((4, C, 2))?;
            let x = is_there.where_cond(&finite.ones_like()?.affine(value.into(), 0.0)?, &finite)?;
            let [kernels, composite] = Subject::both(config, DType::F32)?;
            for Subject { norm, .. } in [&kernels, &composite] {
                norm.forward_t(&x, true)?;
            }
            for name in ["running_mean", "running_var"] {
                let (got, want) = (composite.var(name)?, kernels.var(name)?);
                close(&format!("{config:?} {value}: {name}"), &got, &want, 2e-6)?;
            }
        }
    }
    Ok(())
}

#[test]
fn candles_operations_refuse_and_give_at_the_edges_what_the_kernels_do() -> Result<()> {
    let [kernels, composite] = Subject::both(Config::from(0.0), DType::F32)?;
    let before = f64s(&composite.norm.running_mean().copy()?)?;
    let one = values(&[1, C], 1.0, DType::F32)?;
    let refusal = |norm: &BatchNorm| norm.forward_t(&one, true).err().map(|error| error.to_string());
    let text = refusal(&composite.norm);
    assert!(text.as_deref().is_some_and(|text| text.contains("expected at least 2 values per channel")), "{text:?}");
    let first_line = |text: Option<String>| text.and_then(|text| text.lines().next().map(str::to_owned));
    assert_eq!(first_line(text), first_line(refusal(&kernels.norm)));
    let x = values(&[4, C], 1.0, DType::F32)?;
    for &activation in Activation::ALL.iter().filter(|activation| !activation.takes_residual()) {
        for train in [true, false] {
            let texts = [&kernels.norm, &composite.norm].map(|norm| {
                first_line(norm.add_activate(&x, &x, activation, train).err().map(|error| error.to_string()))
            });
            assert!(texts[1].as_deref().is_some_and(|text| text.contains("one of the epilogues")), "{texts:?}");
            assert_eq!(texts[0], texts[1]);
        }
    }
    for dims in [&[0, C, 3][..], &[2, C, 0]] {
        for train in [true, false] {
            let empty = Tensor::zeros(dims, DType::F32, &Device::Cpu)?;
            assert_eq!(composite.norm.relu(&empty, train)?.dims(), dims);
        }
    }
    assert_eq!(f64s(composite.norm.running_mean())?, before);

    // Nothing to divide by: equal values in training, a variance of 0 in inference. NaN stays NaN behind a relu.
    let equal = Tensor::full(2f32, (4, C), &Device::Cpu)?;
    let [nan, dy] = [Tensor::full(f32::NAN, (4, C), &Device::Cpu)?, values(&[4, C], 2.0, DType::F32)?];
    for (x, train) in [(&equal, true), (&equal, false), (&nan, true), (&nan, false)] {
        for &epilogue in Epilogue::ALL {
            let [kernels, composite] = Subject::both(Config::from(0.0), DType::F32)?;
            for subject in [&kernels, &composite] {
                subject.var("running_var")?.set(&Tensor::zeros(C, DType::F32, &Device::Cpu)?)?;
            }
            let want = kernels.step(epilogue, [x, &dy, &dy], train)?;
            let got = composite.step(epilogue, [x, &dy, &dy], train)?;
            for ((name, got), (_, want)) in got.iter().zip(&want) {
                close(&format!("{} train={train} of {x}: {name}", epilogue.name()), got, want, 2e-6)?;
            }
        }
    }
    Ok(())
}
