//! The settings that candle_nn has not.

use candle_batchnorm::{BatchNormConfig, Config, NonFinite, PlanTable, RunningVar, batch_norm};
use candle_core::{DType, Result, Tensor};
use candle_nn::{ModuleT, VarBuilder, VarMap};

use crate::{C, CPU, close, f64s, values};

fn vb() -> VarBuilder<'static> {
    VarBuilder::from_varmap(&VarMap::new(), DType::F32, &CPU)
}

#[test]
fn a_config_begins_as_candle_nns() -> Result<()> {
    let theirs = BatchNormConfig { eps: 1e-3, momentum: 0.3, affine: false, ..Default::default() };
    assert_eq!(Config::from(theirs), Config::from(1e-3).momentum(0.3).affine(false));
    assert_eq!(Config::from(BatchNormConfig::default()), Config::default());
    for ours in [batch_norm(C, theirs, vb())?, batch_norm(C, Config::from(theirs), vb())?] {
        assert_eq!((ours.eps(), ours.momentum(), ours.weight_and_bias().is_none()), (1e-3, 0.3, true));
    }
    Ok(())
}

#[test]
fn a_non_finite_batch_can_be_skipped() -> Result<()> {
    for value in [f32::NAN, f32::INFINITY] {
        // In the last channel; all of the others move.
        let finite = values(&[4, C - 1, 3], 1.0, 150);
        let x = Tensor::cat(&[&finite, &Tensor::full(value, (4, 1, 3), &CPU)?], 1)?;
        let [skips, propagates] = [Config::from(1e-5).non_finite(NonFinite::Skip), Config::from(1e-5)]
            .map(|config| batch_norm(C, config, vb()));
        let (skips, propagates) = (skips?, propagates?);
        for ours in [&skips, &propagates] {
            ours.forward_t(&x, true)?;
            assert!(f64s(ours.running_mean())[..C - 1].iter().all(|mean| *mean > 0.05));
        }
        assert_eq!((f64s(skips.running_mean())[C - 1], f64s(skips.running_var())[C - 1]), (0.0, 1.0));
        assert!(!f64s(propagates.running_mean())[C - 1].is_finite());
        assert!(f64s(&skips.forward_t(&finite.pad_with_zeros(1, 0, 1)?, false)?).iter().all(|y| y.is_finite()));
    }
    Ok(())
}

#[test]
fn the_running_variance_can_be_the_biased_one() -> Result<()> {
    let x = values(&[4, C], 1.0, 151);
    let biased = batch_norm(C, Config::from(1e-5).momentum(1.0).running_var(RunningVar::Biased), vb())?;
    let unbiased = batch_norm(C, Config::from(1e-5).momentum(1.0), vb())?;
    biased.forward_t(&x, true)?;
    unbiased.forward_t(&x, true)?;
    close("running_var", &(biased.running_var() * (4.0 / 3.0))?, unbiased.running_var(), 1e-6);
    // One value a channel has a biased variance, of 0.
    biased.forward_t(&x.narrow(0, 0, 1)?, true)?;
    assert_eq!(f64s(biased.running_var()), [0.0; C]);
    Ok(())
}

/// The setting is checked and kept, and changes no value. Plans with it are a CUDA device's matter, which is not here.
#[test]
fn the_multiprocessors_of_a_config_are_checked_and_kept() -> Result<()> {
    let x = values(&[4, C, 3], 1.0, 152);
    let (few, all) = (batch_norm(C, Config::from(1e-5).max_sms(1), vb())?, batch_norm(C, 1e-5, vb())?);
    assert_eq!(f64s(&few.forward_t(&x, true)?), f64s(&all.forward_t(&x, true)?));
    assert!(format!("{few:?}").contains("max_sms: Some(1)"), "{few:?}");
    let text = batch_norm(C, Config::from(1e-5).max_sms(0), vb()).unwrap_err().to_string();
    assert!(text.contains("expected max_sms of at least 1, got 0"), "{text}");
    Ok(())
}

/// A table is a CUDA device's matter: here it changes no value, and the layer is the same one.
#[test]
fn a_layer_with_plans_shares_its_statistics() -> Result<()> {
    use batchnorm::plan::{DeviceLimits, Measure, Origin};

    let origin = Origin {
        version: "0.0.0".into(),
        kernels: String::new(),
        device: "none".into(),
        limits: DeviceLimits::KNOWN[0].1,
        driver: 0,
    };
    let plans = std::sync::Arc::new(PlanTable::new(origin, Measure::Nanoseconds));
    let (norm, other) = (batch_norm(C, 1e-5, vb())?, batch_norm(C, 1e-5, vb())?);
    let tuned = norm.with_plans(&plans)?;
    let x = values(&[4, C, 3], 1.0, 153);
    assert_eq!(f64s(&tuned.forward_t(&x, true)?), f64s(&other.forward_t(&x, true)?));
    assert_eq!(f64s(norm.running_mean()), f64s(other.running_mean()));
    assert_ne!(f64s(norm.running_mean()), [0.0; C]);
    Ok(())
}
