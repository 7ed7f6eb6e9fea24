//! The one place that checks: an operation's shape, options and buffers become a [`Problem`], or an error.
//!
//! Whatever runs after a `Problem` relies on it and checks nothing again.

mod buffer;

pub(crate) use buffer::{Access, Buffer, Kind, Place};

use crate::stats::relu_mask_len;
use crate::{Dtype, Epilogue, Error, Momentum, Op, Result, RunningVar, Shape, Tracking};

/// A checked operation: what is to be computed, without a device and without pointers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Problem {
    op: Op,
    shape: Shape,
    dtype: Dtype,
    epilogue: Epilogue<()>,
    eps: f64,
    tracking: Option<Tracking>,
    alignment: usize,
}

impl Problem {
    /// The widest alignment that anything makes use of, in bytes.
    const MAX_ALIGNMENT: usize = 16;

    /// An operation over buffers not known yet: to plan with, or to size a workspace.
    ///
    /// `eps` is not read by [`Op::Moments`] and [`Op::Backward`], `tracking` by [`Op::Train`] alone.
    ///
    /// # Errors
    /// [`Error::Eps`], [`Error::Momentum`], [`Error::OneValuePerChannel`], [`Error::Epilogue`].
    pub fn new(
        op: Op,
        shape: Shape,
        dtype: Dtype,
        epilogue: Epilogue<()>,
        eps: f64,
        tracking: Option<Tracking>,
    ) -> Result<Self> {
        if !(eps.is_finite() && eps >= 0.0) {
            return Err(Error::Eps { actual: eps });
        }
        if let Some(Tracking { momentum, variance, .. }) = tracking {
            if let Momentum::Ema(a) = momentum
                && !(0.0..=1.0).contains(&a)
            {
                return Err(Error::Momentum { actual: a });
            }
            if shape.m() == 1 && variance == RunningVar::Unbiased && op == Op::Train {
                return Err(Error::OneValuePerChannel { shape });
            }
        }
        if op == Op::Moments && epilogue != Epilogue::Identity {
            return Err(Error::Epilogue { op, actual: epilogue.name() });
        }
        Ok(Self { op, shape, dtype, epilogue, eps, tracking, alignment: Self::MAX_ALIGNMENT })
    }

    /// The same operation over these buffers, whose lengths, presence and overlaps are checked here.
    pub(crate) fn over(self, buffers: &[Option<Buffer>]) -> Result<Self> {
        self.fit(buffers)?.apart(buffers)
    }

    /// The part of [`Problem::over`] that needs no addresses: which buffers there are, and how long they are.
    pub(crate) fn fit(self, buffers: &[Option<Buffer>]) -> Result<Self> {
        let present = || buffers.iter().flatten();
        for buffer in present() {
            let expected = match buffer.kind {
                Kind::Data => self.shape.len(),
                Kind::Channel => self.shape.c(),
                Kind::Counter => 1,
                Kind::ReluMask => relu_mask_len(self.shape),
                Kind::Workspace => continue, // How much is needed, the plan says.
            };
            if buffer.len != expected {
                return Err(Error::Length { tensor: buffer.name, expected, actual: buffer.len });
            }
        }
        let has_mask = present().any(|buffer| buffer.kind == Kind::ReluMask);
        let makes_mask = self.epilogue == Epilogue::AddRelu(());
        if has_mask && !makes_mask {
            let reason = "only the epilogue add-relu keeps a mask";
            return Err(Error::Unexpected { tensor: "relu_mask", reason });
        }
        let is_backward = matches!(self.op, Op::Backward | Op::BackwardFrozen);
        // The mask of no value has no words, and who keeps it by its address has none.
        if makes_mask && !has_mask && is_backward && !self.shape.is_empty() {
            let reason = "the backward pass of add-relu reads the mask that its forward pass kept";
            return Err(Error::Missing { tensor: "relu_mask", reason });
        }
        Ok(self)
    }

    /// Whether every buffer can be used on the stream `here`. To be asked before a device's buffers are touched: a
    /// refused buffer must not leave a wait on the stream, nor spoil its capture.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "only a device gives its buffers a place"))]
    pub(crate) fn placed(self, here: &Place, is_capturing: bool, buffers: &[Option<Buffer>]) -> Result<Self> {
        let places = || buffers.iter().flatten().filter_map(|buffer| buffer.place.map(|place| (buffer, place)));
        for (&Buffer { name: tensor, len, .. }, place) in places() {
            if place.device != here.device {
                return Err(Error::ForeignDevice { tensor, expected: here.device, actual: place.device });
            }
            if place.context != here.context {
                return Err(Error::ForeignContext { tensor, device: here.device });
            }
            // Memory of no values has nothing to be kept in order.
            if len > 0 && place.stream != here.stream && !(place.is_tracked && here.is_tracked) {
                return Err(Error::ForeignStream { tensor, expected: here.stream, actual: place.stream });
            }
        }
        if is_capturing && (here.is_tracked || places().any(|(_, place)| place.is_tracked)) {
            return Err(Error::Capture { stream: here.stream });
        }
        Ok(self)
    }

    /// The part of [`Problem::over`] that needs addresses: what may overlap, and what alignment all data has.
    pub(crate) fn apart(self, buffers: &[Option<Buffer>]) -> Result<Self> {
        let present = || buffers.iter().flatten();
        for (i, output) in present().enumerate().filter(|(_, b)| b.access == Access::Write) {
            for (j, other) in present().enumerate() {
                let bytes = output.overlap(other);
                if i != j && bytes > 0 {
                    return Err(Error::Aliasing { output: output.name, other: other.name, bytes });
                }
            }
        }
        let addresses = present().filter(|b| b.kind == Kind::Data).fold(0, |or, b| or | b.address);
        let alignment = (1 << addresses.trailing_zeros().min(31)).min(self.alignment);
        Ok(Self { alignment, ..self })
    }

    /// The same operation over data that begins so many elements behind the start of its memory, to plan for buffers not
    /// known yet.
    #[must_use]
    pub fn with_offset(self, elements: usize) -> Self {
        let bytes = elements * self.dtype.bytes() as usize;
        Self { alignment: self.alignment.min(1 << bytes.trailing_zeros().min(31)), ..self }
    }

    /// The same operation over data of this alignment, to plan for buffers not known yet.
    #[cfg(feature = "cuda")]
    pub(crate) fn with_alignment(self, alignment: usize) -> Self {
        Self { alignment: alignment.min(Self::MAX_ALIGNMENT), ..self }
    }

    /// The operation.
    pub fn op(&self) -> Op {
        self.op
    }

    /// The shape of every data tensor.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The type of every data tensor.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// What is fused behind the normalization.
    pub fn epilogue(&self) -> Epilogue<()> {
        self.epilogue
    }

    /// What is added to the variance.
    pub fn eps(&self) -> f64 {
        self.eps
    }

    /// How running statistics follow, where they do.
    pub fn tracking(&self) -> Option<Tracking> {
        self.tracking
    }

    /// The common alignment of the data tensors in bytes, at most 16.
    pub fn alignment(&self) -> usize {
        self.alignment
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Layout, NonFinite};

    fn shape(dims: &[usize]) -> Shape {
        Shape::new(dims, Layout::ChannelsFirst).unwrap()
    }

    fn train(dims: &[usize], eps: f64, tracking: Option<Tracking>) -> Result<Problem> {
        Problem::new(Op::Train, shape(dims), Dtype::F32, Epilogue::Identity, eps, tracking)
    }

    fn buffer(name: &'static str, kind: Kind, access: Access, address: usize, len: usize) -> Option<Buffer> {
        Some(Buffer { name, kind, access, address, len, bytes: 4 * len, place: None })
    }

    #[test]
    fn eps_is_finite_and_not_negative() {
        for eps in [-1.0, -f64::MIN_POSITIVE, f64::NAN, f64::INFINITY] {
            assert!(matches!(train(&[4, 3], eps, None), Err(Error::Eps { .. })), "{eps}");
        }
        for eps in [0.0, -0.0, 1e-5, 1e30] {
            train(&[4, 3], eps, None).unwrap();
        }
        let text = train(&[4, 3], -1.0, None).unwrap_err().to_string();
        assert_eq!(text, "eps: expected a finite value >= 0, got -1");
    }

    #[test]
    fn momentum_is_in_the_unit_interval() {
        let with = |a| Some(Tracking { momentum: Momentum::Ema(a), ..Tracking::default() });
        for a in [-0.1, 1.0 + f64::EPSILON, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(matches!(train(&[4, 3], 1e-5, with(a)), Err(Error::Momentum { .. })), "{a}");
        }
        for a in [0.0, 0.1, 1.0] {
            train(&[4, 3], 1e-5, with(a)).unwrap();
        }
        let text = train(&[4, 3], 1e-5, with(-1.2)).unwrap_err().to_string();
        assert_eq!(text, "momentum: expected a value in [0, 1], got -1.2");
    }

    #[test]
    fn one_value_a_channel_trains_only_where_no_division_by_zero_follows() {
        let unbiased = Tracking::default();
        let biased = Tracking { variance: RunningVar::Biased, non_finite: NonFinite::Skip, ..unbiased };
        let error = train(&[1, 3, 1, 1], 1e-5, Some(unbiased)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "shape [1, 3, 1, 1] channels-first: expected at least 2 values per channel to train with an unbiased \
             running variance, got 1"
        );
        train(&[1, 3], 1e-5, Some(biased)).unwrap();
        train(&[1, 3], 1e-5, None).unwrap();
        train(&[0, 3], 1e-5, Some(unbiased)).unwrap();
        train(&[2, 3], 1e-5, Some(unbiased)).unwrap();
    }

    #[test]
    fn moments_take_no_epilogue() {
        let error = Problem::new(Op::Moments, shape(&[4, 3]), Dtype::F32, Epilogue::Relu, 0.0, None);
        assert_eq!(error.unwrap_err().to_string(), "Moments: expected no epilogue, got relu");
    }

    #[test]
    fn lengths_are_those_of_the_shape() {
        let problem = train(&[4, 3, 10], 1e-5, None).unwrap();
        for (kind, expected) in [(Kind::Data, 120), (Kind::Channel, 3), (Kind::Counter, 1)] {
            problem.over(&[buffer("x", kind, Access::Read, 64, expected), None]).unwrap();
            for actual in [0, expected - 1, expected + 1] {
                if actual != expected {
                    let error = problem.over(&[buffer("x", kind, Access::Read, 64, actual)]);
                    let text = error.unwrap_err().to_string();
                    assert_eq!(text, format!("x: expected {expected} values, got {actual}"));
                }
            }
        }
    }

    #[test]
    fn outputs_overlap_nothing_and_inputs_may() {
        let problem = train(&[4, 4], 1e-5, None).unwrap();
        let over = |access, address| {
            problem.over(&[buffer("x", Kind::Data, Access::Read, 64, 16), buffer("y", Kind::Data, access, address, 16)])
        };
        over(Access::Write, 128).unwrap();
        over(Access::Write, 0).unwrap();
        over(Access::Read, 64).unwrap();
        for address in [64, 124, 4] {
            let text = over(Access::Write, address).unwrap_err().to_string();
            assert!(text.starts_with("y overlaps x: expected separate memory, got "), "{text}");
        }
    }

    #[test]
    fn the_relu_mask_belongs_to_add_relu() {
        let mask = buffer("relu_mask", Kind::ReluMask, Access::Read, 512, 4);
        let problem = |op, epilogue| Problem::new(op, shape(&[4, 30]), Dtype::F32, epilogue, 0.0, None).unwrap();
        for op in [Op::Train, Op::Infer, Op::Backward, Op::BackwardFrozen] {
            problem(op, Epilogue::AddRelu(())).over(&[mask]).unwrap();
            let error = problem(op, Epilogue::Relu).over(&[mask]).unwrap_err();
            assert!(matches!(error, Error::Unexpected { tensor: "relu_mask", .. }));
        }
        for op in [Op::Backward, Op::BackwardFrozen] {
            let error = problem(op, Epilogue::AddRelu(())).over(&[None]).unwrap_err();
            assert!(matches!(error, Error::Missing { tensor: "relu_mask", .. }));
            let empty = Problem::new(op, shape(&[0, 30]), Dtype::F32, Epilogue::AddRelu(()), 0.0, None).unwrap();
            empty.over(&[None]).unwrap();
            assert!(matches!(empty.over(&[mask]), Err(Error::Length { expected: 0, actual: 4, .. })));
        }
        problem(Op::Train, Epilogue::AddRelu(())).over(&[None]).unwrap();
    }

    #[test]
    fn buffers_are_of_the_stream_or_kept_in_order_with_it() {
        let here = Place { device: 1, context: 7, stream: 16, is_tracked: false };
        let tracked = Place { is_tracked: true, ..here };
        let problem = train(&[4, 4], 1e-5, None).unwrap();
        let check = |here: Place, is_capturing, place| {
            let x = buffer("x", Kind::Data, Access::Read, 64, 16).map(|x| Buffer { place: Some(place), ..x });
            problem.placed(&here, is_capturing, &[None, x]).map_err(|error| error.to_string())
        };
        check(here, true, here).unwrap();
        check(tracked, false, Place { stream: 32, ..tracked }).unwrap();
        let stream = "x: expected memory of stream 0x10, got memory of stream 0x20, and the context does not track \
                      events between streams";
        let capture = "stream 0x10 is being captured: expected a context that tracks no events between streams, got \
                       one that does (`CudaContext::disable_event_tracking`)";
        let context = "x: expected memory of the backend's CUDA context, got memory of another one on device 1";
        for (here, is_capturing, place, text) in [
            (here, false, Place { device: 0, ..here }, "x: expected memory of CUDA device 1, got memory of device 0"),
            (here, false, Place { context: 8, ..here }, context),
            (here, false, Place { stream: 32, ..here }, stream),
            (here, false, Place { stream: 32, ..tracked }, stream),
            (tracked, false, Place { stream: 32, ..here }, stream),
            (tracked, true, tracked, capture),
            (here, true, tracked, capture),
        ] {
            assert_eq!(check(here, is_capturing, place).unwrap_err(), text);
        }
        let x = buffer("x", Kind::Data, Access::Read, 64, 0);
        let x = x.map(|x| Buffer { place: Some(Place { stream: 32, ..here }), ..x });
        train(&[0, 4], 1e-5, None).unwrap().placed(&here, true, &[x]).unwrap();
    }

    #[test]
    fn an_offset_leaves_the_alignment_of_its_bytes() {
        for (dtype, offset, alignment) in
            [(Dtype::F32, 0, 16), (Dtype::F32, 1, 4), (Dtype::F32, 4, 16), (Dtype::F16, 1, 2), (Dtype::F16, 4, 8)]
        {
            let shape = Shape::nc(2, 3).unwrap();
            let problem = Problem::new(Op::Train, shape, dtype, Epilogue::Identity, 1e-5, None).unwrap();
            assert_eq!(problem.with_offset(offset).alignment(), alignment, "{dtype} {offset}");
        }
    }

    #[test]
    fn alignment_is_that_of_the_least_aligned_data() {
        let problem = train(&[4, 4], 1e-5, None).unwrap();
        assert_eq!(problem.alignment(), 16);
        for (address, alignment) in [(0, 16), (64, 16), (72, 8), (66, 2), (65, 1)] {
            let over = problem.over(&[
                buffer("x", Kind::Data, Access::Read, 4096, 16),
                buffer("y", Kind::Data, Access::Write, address, 16),
                buffer("gamma", Kind::Channel, Access::Read, 8193, 4),
            ]);
            assert_eq!(over.unwrap().alignment(), alignment, "{address}");
        }
    }
}
