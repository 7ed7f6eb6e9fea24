//! Threads that share a layer.

use candle_core::Result;
use candle_nn::ModuleT;

use crate::{C, f64s, setting, values, var};

/// A thread that holds the lock of one of the statistics and asks for the other's does not deadlock with a training forward.
#[test]
fn statistics_can_be_read_while_another_thread_trains() -> Result<()> {
    let ours = setting().ours;
    let x = values(&[2, C], 1.0, 93);
    std::thread::scope(|scope| {
        let training = scope.spawn(|| (0..20_000).try_for_each(|_| ours.forward_t(&x, true).map(drop)));
        while !training.is_finished() {
            (ours.running_var() / ours.running_mean())?;
        }
        training.join().unwrap()
    })
}

#[test]
fn threads_can_share_a_layer() {
    let setting = setting();
    let x = values(&[16, C, 20, 20], 1.0, 90);
    let expected = f64s(&setting.ours.forward_t(&x, true).unwrap());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (ours, x, expected) = (setting.ours.clone(), &x, &expected);
            scope.spawn(move || {
                for step in 0..20 {
                    if (step + thread) % 3 == 0 {
                        ours.forward_t(x, false).unwrap();
                    } else {
                        let x = var(x);
                        let y = ours.forward_t(&x, true).unwrap();
                        assert_eq!(&f64s(&y), expected);
                        y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
                    }
                }
            });
        }
    });
}
