//! Refusals: with which words, and that nothing has changed.

use batchnorm::Dtype;
use candle_batchnorm::{BatchNorm, batch_norm};
use candle_core::{DType, Result, Tensor, Var};
use candle_nn::{ModuleT, VarBuilder, VarMap};

use crate::{C, CPU, f64s, setting, values, var};

#[test]
fn refusals_say_expected_and_actual_and_change_nothing() -> Result<()> {
    let setting = setting();
    let ours = &setting.ours;
    let x = values(&[2, C, 3], 0.0, 80);
    let text = |result: Result<Tensor>| result.unwrap_err().to_string();
    let with_f32_statistics: Vec<_> = Dtype::ALL.iter().copied().filter(|dtype| dtype.param() == Dtype::F32).collect();
    let (last, others) = with_f32_statistics.split_last().unwrap();
    let others: Vec<_> = others.iter().map(|dtype| dtype.name()).collect();
    let with_f32_statistics =
        format!("x in {} or {last}, as its statistics are in f32, expected: F32", others.join(", "));
    let refused = [
        (text(ours.forward_t(&values(&[C], 0.0, 1), true)), "unexpected rank, expected: 2, got: 1"),
        (text(ours.forward_t(&values(&[2, 4], 0.0, 1), true)), "channels of x, expected: [2, 5], got: [2, 4]"),
        (text(ours.forward_t(&x.to_dtype(DType::U32)?, true)), &with_f32_statistics),
        (text(ours.forward_t(&x.to_dtype(DType::F64)?, true)), "got: F64"),
        (text(ours.add(&x, &values(&[2, C], 0.0, 1), true)), "[2, 5, 3], got: [2, 5]"),
        (text(ours.add(&x, &x.to_dtype(DType::F16)?, true)), "dtype mismatch"),
        // Would wait for itself for ever.
        (text(ours.forward_t(&ours.running_mean().reshape((1, C))?, true)), "x in memory of its own"),
        (
            text(ours.add(&x.narrow(2, 0, 1)?.narrow(0, 0, 1)?, &ours.running_var().reshape((1, C, 1))?, true)),
            "the residual in memory",
        ),
    ];
    for (text, part) in refused {
        assert!(text.contains(part), "{text:?} has no {part:?}");
    }
    assert_eq!(f64s(ours.running_mean()), f64s(&setting.mean));
    let vb = || VarBuilder::zeros(DType::F32, &CPU);
    let config = candle_batchnorm::BatchNormConfig::default();
    let of = |t: &Tensor, u: &Tensor| BatchNorm::new_no_bias(C, t.clone(), u.clone(), 1e-5);
    let (ones, half) = (Tensor::ones(C, DType::F32, &CPU)?, Tensor::ones(C, DType::F16, &CPU)?);
    let shared = Var::ones(C, DType::F32, &CPU)?;
    let refused = [
        (batch_norm(C, -1e-5, vb()), "a finite eps of at least 0, got -0.00001"),
        (batch_norm(C, f64::NAN, vb()), "a finite eps of at least 0, got NaN"),
        (batch_norm(0, 1e-5, vb()), "at least 1 feature, got 0"),
        (batch_norm(C, candle_batchnorm::BatchNormConfig { momentum: 1.5, ..config }, vb()), "from 0 to 1, got 1.5"),
        (batch_norm(C, candle_batchnorm::BatchNormConfig { remove_mean: false, ..config }, vb()), "remove_mean"),
        (of(&ones, &Tensor::ones(4, DType::F32, &CPU)?), "running_var of shape [5], got [4]"),
        (of(&half, &half), "running_mean in f32 or f64, got f16"),
        (of(&ones, &half), "running_var in f32, as running_mean, got f16"),
        (of(&shared, &shared), "running_var in memory of its own, got that of running_mean"),
    ];
    for (result, part) in refused {
        let text = result.unwrap_err().to_string();
        assert!(text.contains(part), "{text:?} has no {part:?}");
    }
    Ok(())
}

#[test]
fn a_refused_layer_leaves_no_variables() -> Result<()> {
    let vars = VarMap::new();
    let vb = || VarBuilder::from_varmap(&vars, DType::F32, &CPU);
    for (c, eps) in [(0, 1e-5), (C, -1.0)] {
        batch_norm(c, eps, vb()).unwrap_err();
    }
    assert!(vars.all_vars().is_empty());
    batch_norm(C, 1e-5, vb())?;
    assert_eq!(vars.all_vars().len(), 4);
    Ok(())
}

#[test]
fn variables_that_the_layer_could_not_follow_are_refused() -> Result<()> {
    let (half, single) = (var(&values(&[C], 1.0, 5).to_dtype(DType::F16)?), var(&values(&[C], 1.0, 5)));
    let names = ["running_mean", "running_var", "weight", "bias"];
    let of = |v: &Var| names.map(|name| (name.to_owned(), v.as_tensor().clone())).into_iter().collect();
    let text = batch_norm(C, 1e-5, VarBuilder::from_tensors(of(&half), DType::F16, &CPU)).unwrap_err().to_string();
    assert!(text.contains("a variable running_mean in f32, got one that has to be converted"), "{text}");
    let values = of(&Var::from_tensor(&single)?);
    let values: std::collections::HashMap<String, Tensor> = values;
    let values = values.into_iter().map(|(name, t)| Ok((name, t.detach().to_dtype(DType::F16)?)));
    let ours = batch_norm(C, 1e-5, VarBuilder::from_tensors(values.collect::<Result<_>>()?, DType::F16, &CPU))?;
    assert_eq!(ours.running_mean().dtype(), DType::F32);
    Ok(())
}

#[test]
fn gradients_of_gradients_are_refused() -> Result<()> {
    const NOT_DETACHED: &str = "CANDLE_GRAD_DO_NOT_DETACH";
    if std::env::var_os(NOT_DETACHED).is_none() {
        // Candle reads it once a thread, from the environment of the process.
        let mut again = std::process::Command::new(std::env::current_exe()?);
        let again = again.arg("gradients_of_gradients_are_refused").env(NOT_DETACHED, "1").output()?;
        let text = String::from_utf8_lossy(&again.stdout);
        assert!(text.contains("1 passed"), "{text}");
        return Ok(());
    }
    let x = var(&values(&[4, C], 0.0, 94));
    let error = setting().ours.forward_t(&x, true)?.sqr()?.sum_all()?.backward().unwrap_err().to_string();
    assert!(error.contains("backward is not supported for the backward pass of batch-norm"), "{error}");
    Ok(())
}
