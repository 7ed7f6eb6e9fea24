//! Backward passes without the gradients that nobody needs, on any backend: the others have the same bits.

use batchnorm::op::{Backward, Train};
use batchnorm::{Compute, Epilogue, Gradients, Shape, Statistics, StatisticsKind, relu_mask_len};

/// The buffers of a step, and what its forward pass saved.
struct Step<'a, B: Compute<f32>> {
    backend: &'a B,
    shape: Shape,
    x: B::Buf<f32>,
    dy: B::Buf<f32>,
    gamma: B::Buf<f32>,
    /// Mean and `inv_std`, or mean and variance.
    statistics: [B::Buf<f32>; 2],
    relu_mask: B::Buf<u32>,
}

impl<'a, B: Compute<f32>> Step<'a, B> {
    fn new(backend: &'a B, shape: Shape) -> Self {
        let values =
            |scale: usize| -> Vec<f32> { (0..shape.len()).map(|i| ((i * scale) % 101) as f32 / 16.0 - 3.0).collect() };
        let channels = |value: f32| backend.upload(&vec![value; shape.c()]).unwrap();
        let (x, z, dy) = (values(37), values(53), values(29));
        let [x, z, dy] = [x, z, dy].map(|values| backend.upload(&values).unwrap());
        let mut y = backend.upload(&vec![0.0f32; shape.len()]).unwrap();
        let (gamma, mut mean, mut inv_std) = (channels(1.5), channels(0.0), channels(0.0));
        let mut relu_mask = backend.upload(&vec![0u32; relu_mask_len(shape)]).unwrap();
        let train = Train {
            shape,
            eps: 1e-5,
            x: B::input(&x),
            epilogue: Epilogue::add_relu(B::input(&z)),
            gamma: Some(B::input(&gamma)),
            beta: None,
            y: B::output(&mut y),
            saved_mean: B::output(&mut mean),
            saved_inv_std: B::output(&mut inv_std),
            relu_mask: Some(B::output(&mut relu_mask)),
            running: None,
        };
        backend.run(train).unwrap();
        Self { backend, shape, x, dy, gamma, statistics: [mean, inv_std], relu_mask }
    }

    /// `dx`, `dz`, `dgamma` and `dbeta`, those that are needed; with an epilogue, and the mask or not.
    fn gradients(
        &self,
        kind: StatisticsKind,
        epilogue: Epilogue<()>,
        has_mask: bool,
        needs: [bool; 3],
    ) -> [Option<Vec<f32>>; 4] {
        let room = |len: usize| self.backend.upload(&vec![9.0f32; len]).unwrap();
        let (mut dx, mut dz) = (room(self.shape.len()), room(self.shape.len()));
        let (mut dgamma, mut dbeta) = (room(self.shape.c()), room(self.shape.c()));
        let [needs_dx, needs_dgamma, needs_dbeta] = needs;
        let [mean, second] = self.statistics.each_ref().map(B::input);
        let backward = Backward {
            shape: self.shape,
            x: B::input(&self.x),
            dy: B::input(&self.dy),
            epilogue: epilogue.map(|()| B::output(&mut dz)),
            gamma: Some(B::input(&self.gamma)),
            beta: None,
            statistics: match kind {
                StatisticsKind::Batch => Statistics::Batch { mean, inv_std: second },
                StatisticsKind::Running => Statistics::Running { mean, var: second, eps: 1e-5 },
            },
            relu_mask: has_mask.then(|| B::input(&self.relu_mask)),
            gradients: Gradients {
                dx: needs_dx.then(|| B::output(&mut dx)),
                dgamma: needs_dgamma.then(|| B::output(&mut dgamma)),
                dbeta: needs_dbeta.then(|| B::output(&mut dbeta)),
            },
        };
        self.backend.run(backward).unwrap();
        let has_dz = epilogue.residual().is_some();
        let all = [(needs_dx, dx), (has_dz, dz), (needs_dgamma, dgamma), (needs_dbeta, dbeta)];
        all.map(|(is_needed, values)| {
            let values = self.backend.download(&values).unwrap();
            assert!(is_needed || values.iter().all(|value| *value == 9.0), "what nobody needs was written");
            is_needed.then_some(values)
        })
    }
}

/// Every epilogue, both kinds of statistics, each gradient left out, for these shapes.
pub(crate) fn assert_unneeded_gradients_leave_the_others<B: Compute<f32>>(backend: &B, shapes: &[Shape]) {
    for &shape in shapes {
        let step = Step::new(backend, shape);
        for kind in [StatisticsKind::Batch, StatisticsKind::Running] {
            for &epilogue in Epilogue::ALL {
                let has_mask = epilogue == Epilogue::ADD_RELU;
                let all = step.gradients(kind, epilogue, has_mask, [true; 3]);
                for needs in
                    [[false, true, true], [true, false, true], [true, true, false], [false, false, true], [false; 3]]
                {
                    let [needs_dx, needs_dgamma, needs_dbeta] = needs;
                    let some = step.gradients(kind, epilogue, has_mask, needs);
                    let expected = [needs_dx, true, needs_dgamma, needs_dbeta];
                    for ((some, all), is_needed) in some.iter().zip(&all).zip(expected) {
                        assert_eq!(some.as_ref(), all.as_ref().filter(|_| is_needed), "{}, {needs:?}", epilogue.name());
                    }
                }
                if has_mask {
                    let [dx, _, dgamma, dbeta] = all;
                    // Planned as relu's, so that sums may be in another order.
                    let without_dz = step.gradients(kind, Epilogue::RELU, true, [true; 3]);
                    assert!(without_dz[1].is_none());
                    for (got, want) in without_dz.iter().zip([dx, None, dgamma, dbeta]) {
                        let (got, want) = (got.iter().flatten(), want.into_iter().flatten());
                        for (i, (got, want)) in got.zip(want).enumerate() {
                            let error = (got - want).abs();
                            assert!(error <= 1e-5 * want.abs().max(8.0), "{i} of {shape:?}: {got} for {want}");
                        }
                    }
                }
            }
        }
    }
}
