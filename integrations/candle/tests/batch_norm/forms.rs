//! The forms of a layer: an activation behind it, as a method, a `ModuleT` and a `Module`, and names for some of them.

use batchnorm::{Activation, Epilogue};
use candle_core::Result;
use candle_nn::{Module, ModuleT};

use crate::{C, f64s, run, setting, values};

#[test]
fn every_form_of_an_epilogue_is_its_method() -> Result<()> {
    let [x, z] = [values(&[3, C, 4], 0.0, 110), values(&[3, C, 4], 0.0, 111)];
    for &activation in Activation::ALL {
        let plain = Epilogue::new(activation, None);
        for train in [true, false] {
            let want = f64s(&run(&setting().ours, plain, &x, &z, train)?);
            assert_eq!(f64s(&setting().ours.with_activation(activation).forward_t(&x, train)?), want);
            assert_eq!(want == f64s(&setting().ours.forward_t(&x, train)?), activation == Activation::Identity);
        }
        // It shares the statistics: a training forward of one is seen by the other.
        let ours = setting().ours;
        let inference = ours.with_activation(activation).inference();
        for step in 0..2 {
            assert_eq!(f64s(&inference.forward(&x)?), f64s(&run(&ours, plain, &x, &z, false)?), "{step}");
            let behind_z = inference.add(&x, &z);
            if activation.takes_residual() {
                let want = run(&ours, Epilogue::new(activation, Some(())), &x, &z, false)?;
                assert_eq!(f64s(&behind_z?), f64s(&want), "{step}");
            } else {
                let text = behind_z.unwrap_err().to_string();
                assert!(text.contains(&format!("got add-{}", activation.name())), "{text}");
            }
            ours.forward_t(&x, true)?;
        }
        assert_ne!(f64s(ours.running_mean()), f64s(&setting().mean));
    }
    Ok(())
}

#[test]
fn the_named_forms_are_the_general_ones() -> Result<()> {
    let [x, z] = [values(&[3, C, 4], 0.0, 112), values(&[3, C, 4], 0.0, 113)];
    let ours = setting().ours;
    for train in [true, false] {
        let named = [
            (Epilogue::IDENTITY, setting().ours.forward_t(&x, train)?),
            (Epilogue::RELU, setting().ours.relu(&x, train)?),
            (Epilogue::RELU, setting().ours.with_relu().forward_t(&x, train)?),
            (Epilogue::ADD, setting().ours.add(&x, &z, train)?),
            (Epilogue::ADD_RELU, setting().ours.add_relu(&x, &z, train)?),
        ];
        for (epilogue, y) in named {
            assert_eq!(f64s(&y), f64s(&run(&setting().ours, epilogue, &x, &z, train)?), "{}", epilogue.name());
        }
    }
    assert_eq!(f64s(&setting().ours.forward_train(&x)?), f64s(&setting().ours.forward_t(&x, true)?));
    assert_eq!(f64s(&ours.with_relu().inference().forward(&x)?), f64s(&ours.relu(&x, false)?));
    assert_eq!(f64s(&ours.inference().forward(&x)?), f64s(&ours.forward_t(&x, false)?));
    Ok(())
}
