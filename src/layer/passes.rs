//! The passes of a layer: each is an operation over its buffers and the caller's.

use super::saved::{mask_of, run_and_record};
use super::{BatchNorm, Saved, State};
use crate::backend::{Backend, Compute};
use crate::element::{Element, Param};
use crate::error::{Error, Result};
use crate::op::{Backward, Epilogue, ForwardPass, Gradients, Infer, Op, Statistics, StatisticsKind, Train, Update};
use crate::shape::{Shape, relu_mask_len};

impl<B: Backend, P: Param> BatchNorm<B, P> {
    /// The forward pass with the batch's statistics, which also move the running ones: [`Train`].
    ///
    /// The parameters of a layer of [`BatchNorm::new`] are f32: f64 data takes `BatchNorm::<_, f64>::with_param_type`.
    /// Literals are f64 where none of the tensors has a type: `[1.0f32, 2.0]` in one of them gives it to all.
    ///
    /// # Shapes
    /// `x`, `y` and the epilogue's `z` as `shape`; `saved` made for it or for a larger batch of it.
    ///
    /// # Errors
    /// [`Error::Epilogue`], [`Error::Channels`], [`Error::SavedShape`], [`Error::Length`], [`Error::Aliasing`],
    /// [`Error::OneValuePerChannel`], and [`Error::Missing`] for add-relu with a `saved` that has no room for its
    /// mask. Nothing has changed then, and `saved` is still of the pass that it was of. After [`Error::Driver`] and
    /// [`Error::Launch`], which may come once the pass has begun, `saved` is of none.
    pub fn train<'a, T: Element<Param = P>>(
        &'a mut self,
        shape: Shape,
        x: B::In<'a, T>,
        epilogue: Epilogue<B::In<'a, T>>,
        y: B::Out<'a, T>,
        saved: &'a mut Saved<B, P>,
    ) -> Result<()>
    where
        B: Compute<T>,
    {
        Op::Train.check_epilogue(epilogue.kind())?;
        self.check_channels(shape)?;
        saved.check(shape)?;
        let Self { backend, options, state: State { gamma, beta, running }, workspace, .. } = self;
        let Saved { mean, inv_std, relu_mask, pass, .. } = saved;
        let mask = mask_of(relu_mask.as_mut(), &epilogue)?;
        let mut mask = mask.map(|mask| B::view_mut(mask, 0..relu_mask_len(shape)));
        let next = ForwardPass { statistics: StatisticsKind::Batch, epilogue: epilogue.kind() };
        let train = Train {
            shape,
            eps: options.eps,
            x: B::shorten_in(x),
            epilogue: epilogue.map(B::shorten_in),
            gamma: gamma.as_ref().map(B::input),
            beta: beta.as_ref().map(B::input),
            y: B::shorten_out(y),
            saved_mean: B::output(mean),
            saved_inv_std: B::output(inv_std),
            relu_mask: mask.as_mut().map(B::view_output),
            running: running.as_mut().zip(options.tracking).map(|(running, tracking)| Update {
                tracking,
                mean: B::output(&mut running.mean),
                var: B::output(&mut running.var),
                num_batches_tracked: B::output(&mut running.num_batches_tracked),
            }),
        };
        run_and_record(pass, (next, shape), || backend.run_in(workspace, train))
    }

    /// The forward pass with the running statistics: [`Infer`].
    ///
    /// # Shapes
    /// `x`, `y` and the epilogue's `z` as `shape`.
    ///
    /// # Errors
    /// [`Error::Epilogue`], [`Error::Channels`], [`Error::NotTracking`], [`Error::Length`], [`Error::Aliasing`].
    pub fn infer<'a, T: Element<Param = P>>(
        &'a self,
        shape: Shape,
        x: B::In<'a, T>,
        epilogue: Epilogue<B::In<'a, T>>,
        y: B::Out<'a, T>,
    ) -> Result<()>
    where
        B: Compute<T>,
    {
        Op::Infer.check_epilogue(epilogue.kind())?;
        self.check_channels(shape)?;
        self.infer_with(shape, x, epilogue, y, None)
    }

    /// [`BatchNorm::infer`] for fine-tuning: leaves in `saved` what [`BatchNorm::backward`] needs. Its mean and `inv_std` stay as
    /// they were.
    ///
    /// # Errors
    /// Those of [`BatchNorm::infer`]; [`Error::SavedShape`]; [`Error::Missing`] for add-relu with a `saved` that has
    /// no room for its mask. What they leave is as [`BatchNorm::train`] says.
    pub fn frozen<'a, T: Element<Param = P>>(
        &'a self,
        shape: Shape,
        x: B::In<'a, T>,
        epilogue: Epilogue<B::In<'a, T>>,
        y: B::Out<'a, T>,
        saved: &'a mut Saved<B, P>,
    ) -> Result<()>
    where
        B: Compute<T>,
    {
        Op::Infer.check_epilogue(epilogue.kind())?;
        self.check_channels(shape)?;
        saved.check(shape)?;
        let Saved { relu_mask, pass, .. } = saved;
        let mask = mask_of(relu_mask.as_mut(), &epilogue)?;
        let mut mask = mask.map(|mask| B::view_mut(mask, 0..relu_mask_len(shape)));
        let next = ForwardPass { statistics: StatisticsKind::Running, epilogue: epilogue.kind() };
        let (x, epilogue, y) = (B::shorten_in(x), epilogue.map(B::shorten_in), B::shorten_out(y));
        let mask = mask.as_mut().map(B::view_output);
        run_and_record(pass, (next, shape), || self.infer_with(shape, x, epilogue, y, mask))
    }

    fn infer_with<'a, T: Element<Param = P>>(
        &'a self,
        shape: Shape,
        x: B::In<'a, T>,
        epilogue: Epilogue<B::In<'a, T>>,
        y: B::Out<'a, T>,
        relu_mask: Option<B::Out<'a, u32>>,
    ) -> Result<()>
    where
        B: Compute<T>,
    {
        let State { gamma, beta, running } = &self.state;
        let running = running.as_ref().ok_or(Error::NotTracking)?;
        self.backend.run(Infer {
            shape,
            eps: self.options.eps,
            x,
            epilogue,
            gamma: gamma.as_ref().map(B::input),
            beta: beta.as_ref().map(B::input),
            running_mean: B::input(&running.mean),
            running_var: B::input(&running.var),
            y,
            relu_mask,
        })
    }

    /// The backward pass of the forward pass that wrote `saved`: [`Backward`], through the batch's statistics of
    /// [`BatchNorm::train`], or through the running ones of now after [`BatchNorm::frozen`]. The epilogue is that of the forward
    /// pass. (Who wants no copy of `dy` as `dz` after [`Epilogue::add`] runs [`Backward`] with [`Epilogue::IDENTITY`].)
    ///
    /// # Shapes
    /// `x`, `dy`, `dx` and the epilogue's `dz` as `shape`, which is that of the forward pass; `dgamma`, `dbeta` `[c]`.
    ///
    /// # Errors
    /// [`Error::Epilogue`], [`Error::Channels`], [`Error::SavedShape`], [`Error::SavedBatch`], [`Error::Length`],
    /// [`Error::Aliasing`], [`Error::NotTracking`], and [`Error::SavedPass`] for a `saved` that no forward pass of this
    /// epilogue wrote last.
    pub fn backward<'a, T: Element<Param = P>>(
        &'a mut self,
        shape: Shape,
        x: B::In<'a, T>,
        dy: B::In<'a, T>,
        epilogue: Epilogue<B::Out<'a, T>>,
        saved: &'a Saved<B, P>,
        gradients: Gradients<'a, B, T>,
    ) -> Result<()>
    where
        B: Compute<T>,
    {
        Op::Backward(StatisticsKind::Batch).check_epilogue(epilogue.kind())?;
        self.check_channels(shape)?;
        let pass = saved.pass_of(shape, epilogue.kind())?;
        let mask = mask_of(saved.relu_mask.as_ref(), &epilogue)?.map(|mask| B::view(mask, 0..relu_mask_len(shape)));
        let Self { backend, options, state: State { gamma, beta, running }, workspace, .. } = self;
        let statistics = match pass.statistics {
            StatisticsKind::Batch => {
                Statistics::Batch { mean: B::input(&saved.mean), inv_std: B::input(&saved.inv_std) }
            }
            StatisticsKind::Running => {
                let running = running.as_ref().ok_or(Error::NotTracking)?;
                Statistics::Running { mean: B::input(&running.mean), var: B::input(&running.var), eps: options.eps }
            }
        };
        let Gradients { dx, dgamma, dbeta } = gradients;
        let backward = Backward {
            shape,
            x: B::shorten_in(x),
            dy: B::shorten_in(dy),
            epilogue: epilogue.map(B::shorten_out),
            gamma: gamma.as_ref().map(B::input),
            beta: beta.as_ref().map(B::input),
            statistics,
            relu_mask: mask.as_ref().map(B::view_input),
            gradients: Gradients {
                dx: dx.map(B::shorten_out),
                dgamma: dgamma.map(B::shorten_out),
                dbeta: dbeta.map(B::shorten_out),
            },
        };
        backend.run_in(workspace, backward)
    }
}
