//! The layer compared with candle_nn's: as its replacement, and where it differs.

use batchnorm::Dtype;
use candle_batchnorm::{BatchNorm, batch_norm};
use candle_core::{DType, Error, Result, Tensor};
use candle_nn::{Module, ModuleT, VarBuilder, VarMap};

use crate::{C, CPU, close, f64s, setting, values, var};

#[test]
fn candle_nn_can_be_replaced_and_its_weights_load() -> Result<()> {
    let (theirs_vars, ours_vars) = (VarMap::new(), VarMap::new());
    let theirs_vb = VarBuilder::from_varmap(&theirs_vars, DType::F32, &CPU);
    let ours_vb = VarBuilder::from_varmap(&ours_vars, DType::F32, &CPU);
    let theirs = candle_nn::batch_norm(C, 1e-3, theirs_vb.pp("bn"))?;
    let ours = batch_norm(C, 1e-3, ours_vb.pp("bn"))?;
    for step in 0..3 {
        let x = values(&[4, C, 3, 3], 2.0, 10 + step);
        close("y in training", &ours.forward_t(&x, true)?, &theirs.forward_t(&x, true)?, 1e-5);
    }
    close("running_mean", ours.running_mean(), theirs.running_mean(), 1e-6);
    close("running_var", ours.running_var(), theirs.running_var(), 1e-6);
    let x = values(&[4, C, 3, 3], 2.0, 20);
    close("y in inference", &ours.forward_t(&x, false)?, &theirs.forward_t(&x, false)?, 1e-5);
    close("y of the module", &ours.inference().forward(&x)?, &theirs.forward_t(&x, false)?, 1e-5);

    // The names are the same, and the statistics under them are the ones that moved.
    let names = |vars: &VarMap| {
        let mut names: Vec<String> = vars.data().lock().unwrap().keys().cloned().collect();
        names.sort();
        names
    };
    assert_eq!(names(&ours_vars), names(&theirs_vars));
    let stored = ours_vars.data().lock().unwrap()["bn.running_mean"].as_tensor().clone();
    assert_eq!(f64s(&stored), f64s(ours.running_mean()));
    assert!(f64s(&stored).iter().all(|mean| *mean > 0.3), "{stored}");

    let file = std::env::temp_dir().join(format!("candle-batchnorm-{}.safetensors", std::process::id()));
    theirs_vars.save(&file)?;
    let mut loaded_vars = VarMap::new();
    let loaded = batch_norm(C, 1e-3, VarBuilder::from_varmap(&loaded_vars, DType::F32, &CPU).pp("bn"))?;
    loaded_vars.load(&file)?;
    close("y of loaded weights", &loaded.forward_t(&x, false)?, &theirs.forward_t(&x, false)?, 1e-5);
    ours_vars.save(&file)?;
    // SAFETY: nobody else writes the file of this process.
    let vb = unsafe { VarBuilder::from_mmaped_safetensors(&[&file], DType::F32, &CPU)? };
    let back = candle_nn::batch_norm(C, 1e-3, vb.pp("bn"))?;
    close("y of candle_nn with our weights", &back.forward_t(&x, false)?, &ours.forward_t(&x, false)?, 1e-5);
    std::fs::remove_file(&file)?;
    Ok(())
}

#[test]
fn half_trains_and_evaluates_where_candle_nn_does_one_of_them() -> Result<()> {
    let x = values(&[4, C, 3, 3], 0.0, 30).to_dtype(DType::F16)?;
    let vb = |dtype| VarBuilder::from_varmap(&VarMap::new(), dtype, &CPU);
    let trains_only = candle_nn::batch_norm(C, 1e-5, vb(DType::F32))?;
    assert!(trains_only.forward_t(&x, false).is_err());
    let evaluates_only = candle_nn::batch_norm(C, 1e-5, vb(DType::F16))?;
    assert!(evaluates_only.forward_t(&x, true).is_err());
    for dtype in Dtype::ALL.iter().copied().filter(|dtype| dtype.param() == Dtype::F32) {
        let ours = batch_norm(C, 1e-5, vb(dtype.name().parse::<DType>().unwrap()))?;
        assert_eq!((ours.running_var().dtype(), ours.weight_and_bias().unwrap().0.dtype()), (DType::F32, DType::F32));
        for train in [true, false] {
            assert_eq!(ours.forward_t(&x, train)?.dtype(), DType::F16);
        }
    }
    Ok(())
}

#[test]
fn one_value_a_channel_is_an_error_where_candle_nn_gives_nan() -> Result<()> {
    let x = values(&[1, C], 0.0, 31);
    let theirs = candle_nn::batch_norm(C, 1e-5, VarBuilder::from_varmap(&VarMap::new(), DType::F32, &CPU))?;
    theirs.forward_t(&x, true)?;
    assert!(f64s(theirs.running_var()).iter().any(|v| v.is_nan()), "{}", theirs.running_var());

    let setting = setting();
    let error = setting.ours.forward_t(&x, true).unwrap_err().to_string();
    assert!(error.contains("expected at least 2 values per channel"), "{error}");
    assert_eq!(f64s(setting.ours.running_mean()), f64s(&setting.mean));
    assert_eq!(f64s(setting.ours.running_var()), f64s(&setting.running_var));
    setting.ours.forward_t(&x, false)?;
    Ok(())
}

#[test]
fn empty_batches_move_nothing() -> Result<()> {
    let setting = setting();
    for dims in [&[0, C, 3][..], &[2, C, 0]] {
        let x = Tensor::zeros(dims, DType::F32, &CPU)?;
        for train in [true, false] {
            assert_eq!(setting.ours.relu(&x, train)?.dims(), dims);
        }
    }
    assert_eq!(f64s(setting.ours.running_mean()), f64s(&setting.mean));
    Ok(())
}

/// The rows of README.md that no other test has.
#[test]
fn candle_nn_differs_as_the_readme_says() -> Result<()> {
    let vb = || VarBuilder::from_varmap(&VarMap::new(), DType::F32, &CPU);
    let (ours, theirs) = (batch_norm(C, 1e-5, vb())?, candle_nn::batch_norm(C, 1e-5, vb())?);
    let empty = Tensor::zeros((0, C, 3), DType::F32, &CPU)?;
    drop((ours.forward_t(&empty, true)?, theirs.forward_t(&empty, true)));
    assert_eq!(f64s(ours.running_var()), [1.0; C]);
    assert!(f64s(theirs.running_var()).iter().all(|v| v.is_nan()));

    let nan = Tensor::full(f32::NAN, (2, C), &CPU)?;
    assert!(f64s(&ours.relu(&nan, false)?).iter().all(|v| v.is_nan()));
    assert_eq!(f64s(&nan.relu()?), [0.0; 2 * C]);

    // The gradient of relu at a pre-activation of 0.
    let (x, zeros) = (values(&[4, C], 0.0, 95), || Tensor::zeros(C, DType::F32, &CPU));
    let bias = var(&zeros()?);
    let still = BatchNorm::new(C, zeros()?, zeros()?, zeros()?, bias.as_tensor().clone(), 1e-5)?;
    let gradient = |y: Tensor| Ok::<_, Error>(f64s(y.sum_all()?.backward()?.get(&bias).unwrap()));
    assert_eq!(gradient(still.relu(&x, true)?)?, [0.0; C]);
    assert_eq!(gradient(still.forward_t(&x, true)?.relu()?)?, [4.0; C]);

    let (x, ones) = (values(&[2, C], 0.0, 96), Tensor::ones(C, DType::F32, &CPU)?);
    let theirs = candle_nn::BatchNorm::new(C, zeros()?, zeros()?, ones.clone(), zeros()?, 0.0)?;
    assert!(f64s(&theirs.forward_t(&x, false)?).iter().all(|v| !v.is_finite()));
    let ours = BatchNorm::new(C, zeros()?, zeros()?, ones, zeros()?, 0.0)?;
    assert_eq!(f64s(&ours.forward_t(&x, false)?), [0.0; 2 * C]);
    Ok(())
}
