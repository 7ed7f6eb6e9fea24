//! The operations of a layer, each once: drawn, called, and compared with the model or with what it should have left alone.

use batchnorm::verify::Verified;
use batchnorm::{Compute, Element, Epilogue, ForwardPass, Gradients, Op, RunningVar, Shape, StateDict, StatisticsKind};
use fastrand::Rng;

use super::draw;
use super::model::{Backward, Channel, Forward, channel_of};
use super::world::{Last, UNTOUCHED, World, assert_untouched, len};

fn wide<E: Element>(values: &[E]) -> Vec<f64> {
    values.iter().map(|value| value.to_f64()).collect()
}

impl<B: Verified + Compute<T>, T: Element> World<B, T> {
    /// The model of this pass, by the present state.
    fn model(&self, op: Op, shape: Shape, epilogue: Epilogue<()>, x: &[T], z: &[T]) -> Forward {
        let eps = <T::Param as Element>::from_f64(self.options.eps).to_f64();
        let (x, z) = (wide(x), wide(z));
        let StateDict { gamma, beta, running } = &self.known;
        let channels = (0..shape.c()).map(|channel| {
            let of = |values: &[f64]| -> Vec<f64> {
                let places = (0..values.len()).filter(|&index| channel_of(shape, index) == channel);
                places.map(|index| values[index]).collect()
            };
            let part =
                |values: &Option<Vec<T::Param>>, absent| values.as_ref().map_or(absent, |it| it[channel].to_f64());
            let frozen = running.as_ref().map(|it| (it.mean[channel].to_f64(), it.var[channel].to_f64()));
            let z = if epilogue.residual().is_some() { of(&z) } else { vec![] };
            Channel::new(&of(&x), &z, frozen.filter(|_| op == Op::Infer), eps, part(gamma, 1.0), part(beta, 0.0))
        });
        let channels = channels.collect();
        Forward { op, shape, epilogue, x, z, channels }
    }

    /// `train` for `Some(true)`, `frozen` for `Some(false)`, else `infer`.
    pub(crate) fn forward(&mut self, rng: &mut Rng, saving: Option<bool>) {
        let (mut wrong, at, epilogue) = (vec![], rng.usize(..self.slots.len()), *rng.choice(Epilogue::ALL).unwrap());
        let shape = self.shape(rng, saving.map(|_| at), &mut wrong);
        let is_train = saving == Some(true);
        let tracking = self.options.tracking;
        if is_train && shape.m() == 1 && tracking.is_some_and(|tracking| tracking.variance == RunningVar::Unbiased) {
            wrong.push("one value a channel");
        }
        if !is_train && tracking.is_none() {
            wrong.push("no statistics");
        }
        if saving.is_some() && epilogue.keeps_mask() && !self.slots[at].has_mask {
            wrong.push("no room for the mask");
        }
        let x_len = len(rng, shape.len(), "x", &mut wrong);
        let y_len = len(rng, shape.len(), "y", &mut wrong);
        let z_len = if epilogue.residual().is_some() { len(rng, shape.len(), "z", &mut wrong) } else { 0 };
        let (x, z) = (draw::data::<T>(rng, x_len), draw::gradient::<T>(rng, z_len));
        let (x_buf, z_buf, mut y_buf) = (self.upload(&x), self.upload(&z), self.untouched::<T>(y_len));

        let before = (self.slots[at].saved.pass(), self.saved_bits(at));
        let (x_in, z_in) = (B::input(&x_buf), epilogue.map(|()| B::input(&z_buf)));
        let (y_out, saved) = (B::output(&mut y_buf), &mut self.slots[at].saved);
        let result = match saving {
            Some(true) => self.layer.train(shape, x_in, z_in, y_out, saved),
            Some(false) => self.layer.frozen(shape, x_in, z_in, y_out, saved),
            None => self.layer.infer(shape, x_in, z_in, y_out),
        };
        let y = self.download(&y_buf);
        if !self.went_through(result, shape, &wrong) {
            assert_untouched("y", &y);
            assert!((self.slots[at].saved.pass(), self.saved_bits(at)) == before, "saved changed in a refused pass");
            return;
        }
        let param = <T::Param as Element>::DTYPE;
        let model = self.model(if is_train { Op::Train } else { Op::Infer }, shape, epilogue, &x, &z);
        for (index, &got) in y.iter().enumerate() {
            model.y(index, B::arithmetic(T::DTYPE), param).assert("y", index, T::DTYPE, got);
        }
        if is_train {
            self.assert_trained(at, &model);
        } else {
            self.assert_state();
            assert!(self.saved_bits(at) == before.1, "frozen statistics are not the batch's");
        }
        if let Some(is_train) = saving {
            let statistics = if is_train { StatisticsKind::Batch } else { StatisticsKind::Running };
            let pass = ForwardPass { statistics, epilogue };
            assert_eq!(self.slots[at].saved.pass(), Some(pass));
            self.slots[at].last = Some(Last { pass, shape, x });
            self.slots[at].model = Some(model);
        }
    }

    /// The saved and the running statistics after a training forward. The state is taken over as it is.
    fn assert_trained(&mut self, at: usize, model: &Forward) {
        let (param, m) = (<T::Param as Element>::DTYPE, model.shape.m());
        let saved = &self.slots[at].saved;
        let (mean, inv_std) = (self.download(saved.mean()), self.download(saved.inv_std()));
        for (channel, ch) in model.channels.iter().enumerate() {
            let [want_mean, want_inv_std] = ch.saved(B::arithmetic(T::DTYPE), param, m);
            want_mean.assert("saved mean", channel, param, mean[channel]);
            want_inv_std.assert("saved inv_std", channel, param, inv_std[channel]);
        }
        let (tracked, now) = (self.options.tracking.filter(|_| m > 0), self.layer.state_dict().unwrap());
        if let (Some(tracking), Some(old), Some(new)) = (tracked, &mut self.known.running, &now.running) {
            let count = old.num_batches_tracked.saturating_add(1);
            for (channel, ch) in model.channels.iter().enumerate() {
                let before = (old.mean[channel].to_f64(), old.var[channel].to_f64());
                let [mean, var] = ch.tracked(before, count, tracking, B::arithmetic(T::DTYPE), (param, m));
                mean.assert("running mean", channel, param, new.mean[channel].to_f64());
                var.assert("running var", channel, param, new.var[channel].to_f64());
            }
            assert_eq!(new.num_batches_tracked, count);
            *old = new.clone();
        }
        self.assert_state();
        // Frozen statistics are those of now.
        self.forget(|pass| pass.statistics == StatisticsKind::Running);
    }

    /// The backward pass of the forward pass that wrote a slot last, through the statistics of that.
    pub(crate) fn backward(&mut self, rng: &mut Rng) {
        let (mut wrong, at) = (vec![], rng.usize(..self.slots.len()));
        let shape = self.backward_shape(rng, at, &mut wrong);
        let last = self.slots[at].last.clone();
        let epilogue = match &last {
            Some(Last { pass, .. }) if rng.u8(..8) != 0 => pass.epilogue,
            _ => *rng.choice(Epilogue::ALL).unwrap(),
        };
        if last.as_ref().map(|last| last.pass.epilogue) != Some(epilogue) {
            wrong.push("another epilogue");
        }
        let lens = ["x", "dy", "dx"].map(|name| len(rng, shape.len(), name, &mut wrong));
        let dz_len = if epilogue.residual().is_some() { len(rng, shape.len(), "dz", &mut wrong) } else { 0 };
        let has = [rng.u8(..8) != 0, rng.u8(..8) != 0];
        let [dgamma_len, dbeta_len] = [0, 1].map(|part| match has[part] {
            true => len(rng, shape.c(), ["dgamma", "dbeta"][part], &mut wrong),
            false => shape.c(),
        });
        let mut x = last.map_or_else(Vec::new, |last| last.x);
        x.resize(lens[0], T::default());
        let mut dy = draw::gradient::<T>(rng, lens[1]);
        let model = self.slots[at].model.as_ref().filter(|_| wrong.is_empty());
        if let Some(model) = model {
            let close = (0..dy.len()).filter(|&index| model.is_close_to_jump(index, T::DTYPE));
            close.collect::<Vec<_>>().into_iter().for_each(|index| dy[index] = T::default());
        }
        let (x_buf, dy_buf) = (self.upload(&x), self.upload(&dy));
        let (mut dx, mut dz) = (self.untouched::<T>(lens[2]), self.untouched::<T>(dz_len));
        let (mut dgamma, mut dbeta) = (self.untouched::<T::Param>(dgamma_len), self.untouched::<T::Param>(dbeta_len));

        let before = (self.slots[at].saved.pass(), self.saved_bits(at));
        let gradients = Gradients::<B, T> {
            dx: Some(B::output(&mut dx)),
            dgamma: has[0].then(|| B::output(&mut dgamma)),
            dbeta: has[1].then(|| B::output(&mut dbeta)),
        };
        let (dz_out, saved) = (epilogue.map(|()| B::output(&mut dz)), &self.slots[at].saved);
        let (x_in, dy_in) = (B::input(&x_buf), B::input(&dy_buf));
        let result = self.layer.backward(shape, x_in, dy_in, dz_out, saved, gradients);
        let data = [("dx", self.download(&dx)), ("dz", self.download(&dz))];
        let per_channel = [("dgamma", self.download(&dgamma)), ("dbeta", self.download(&dbeta))];
        let went = self.went_through(result, shape, &wrong);
        self.assert_state();
        assert!((self.slots[at].saved.pass(), self.saved_bits(at)) == before, "a backward pass changed what was saved");
        if !went {
            data.iter().chain(&per_channel).for_each(|(name, values)| assert_untouched(name, values));
            return;
        }
        let Some(model) = &self.slots[at].model else { return };
        let param = <T::Param as Element>::DTYPE;
        let want = Backward::new(model, &wide(&dy), B::arithmetic(T::DTYPE), param);
        for ((name, got), want) in data.iter().zip([&want.dx, &want.dz]) {
            got.iter().zip(want).enumerate().for_each(|(index, (&got, want))| want.assert(name, index, T::DTYPE, got));
        }
        for (part, ((name, got), want)) in per_channel.iter().zip([&want.dgamma, &want.dbeta]).enumerate() {
            match has[part] {
                true => got.iter().zip(want).enumerate().for_each(|(c, (&got, want))| want.assert(name, c, param, got)),
                false => assert!(got.iter().all(|&value| value == UNTOUCHED)),
            }
        }
    }
}
