//! The checks of an operation's tensors: lengths and presence, streams, overlaps.

#[cfg(feature = "cuda")]
use super::tensor::StreamKey;
use super::tensor::{Role, Tensor, Usage};
use super::{Epilogue, Problem, backward};
use crate::error::{Error, Result};
use crate::shape::relu_mask_len;

impl Problem {
    /// The same operation over these tensors, whose lengths, presence and overlaps are checked here.
    pub(crate) fn over(self, tensors: &[Tensor]) -> Result<Self> {
        self.check_lengths(tensors)?.check_aliasing(tensors)
    }

    /// The part of [`Problem::over`] that needs no addresses: which tensors there are, and how long they are.
    pub(crate) fn check_lengths(self, tensors: &[Tensor]) -> Result<Self> {
        for tensor in tensors {
            let expected = match tensor.role {
                Role::Data => self.shape().len(),
                Role::Channel => self.shape().c(),
                Role::Counter => 1,
                Role::ReluMask => relu_mask_len(self.shape()),
                Role::Workspace => continue, // How much is needed, the plan says.
            };
            let actual = tensor.extent.len;
            if actual != expected {
                return Err(Error::Length { tensor: tensor.name, expected, actual });
            }
        }
        let has_mask = tensors.iter().any(|tensor| tensor.role == Role::ReluMask);
        let takes_mask = self.op().is_backward() && self.epilogue() == Epilogue::RELU;
        if has_mask && !self.epilogue().keeps_mask() && !takes_mask {
            let reason = "only the forward pass of add-relu keeps a mask";
            return Err(Error::Unexpected { tensor: "relu_mask", reason });
        }
        if self.op().is_backward() {
            backward::check_mask(self.shape(), self.epilogue(), has_mask)?;
        }
        Ok(self)
    }

    /// Whether every tensor can be used on the stream `here`. To be asked before a device's memory is touched: a
    /// refused tensor must not leave a wait on the stream, nor spoil its capture.
    #[cfg(feature = "cuda")]
    pub(crate) fn check_streams(self, here: &StreamKey, is_capturing: bool, tensors: &[Tensor]) -> Result<Self> {
        check_streams(here, is_capturing, tensors).map(|()| self)
    }

    /// The part of [`Problem::over`] that needs addresses: what may overlap, and what alignment all data has.
    pub(crate) fn check_aliasing(self, tensors: &[Tensor]) -> Result<Self> {
        check_overlaps(tensors)?;
        let data = tensors.iter().filter(|tensor| tensor.role == Role::Data);
        Ok(self.aligned_as(data.fold(0, |or, tensor| or | tensor.extent.address)))
    }
}

/// [`Problem::check_streams`], which asks nothing of the problem.
#[cfg(feature = "cuda")]
pub(crate) fn check_streams(here: &StreamKey, is_capturing: bool, tensors: &[Tensor]) -> Result<()> {
    let keys = || tensors.iter().filter_map(|tensor| tensor.extent.stream.map(|key| (tensor, key)));
    for (&Tensor { name: tensor, extent, .. }, key) in keys() {
        if key.device != here.device {
            return Err(Error::ForeignDevice { tensor, expected: here.device, actual: key.device });
        }
        if key.context != here.context {
            return Err(Error::ForeignContext { tensor, device: here.device });
        }
        // Memory of no values has nothing to be kept in order.
        if extent.len > 0 && key.stream != here.stream && !(key.is_tracked && here.is_tracked) {
            return Err(Error::ForeignStream { tensor, expected: here.stream, actual: key.stream });
        }
    }
    if is_capturing && (here.is_tracked || keys().any(|(_, key)| key.is_tracked)) {
        return Err(Error::Capture { stream: here.stream });
    }
    Ok(())
}

/// Whether each output has its memory for itself.
pub(crate) fn check_overlaps(tensors: &[Tensor]) -> Result<()> {
    for (i, output) in tensors.iter().enumerate().filter(|(_, tensor)| tensor.usage == Usage::Write) {
        for (j, other) in tensors.iter().enumerate() {
            let bytes = output.overlap(other);
            if i != j && bytes > 0 {
                return Err(Error::Aliasing { output: output.name, other: other.name, bytes });
            }
        }
    }
    Ok(())
}

/// Whether the vectors of an update are of one length.
pub(crate) fn check_axpy(x: usize, y: usize) -> Result<()> {
    if x == y { Ok(()) } else { Err(Error::Length { tensor: "x", expected: y, actual: x }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::element::Dtype;
    use crate::op::{Extent, Op, StatisticsKind, Tracking};
    use crate::shape::{Layout, Shape};

    const BACKWARD: [Op; 2] = [Op::Backward(StatisticsKind::Batch), Op::Backward(StatisticsKind::Running)];

    fn shape(dims: &[usize]) -> Shape {
        Shape::new(dims, Layout::ChannelsFirst).unwrap()
    }

    fn train(dims: &[usize], eps: f64, tracking: Option<Tracking>) -> Result<Problem> {
        Problem::new(Op::Train, shape(dims), Dtype::F32, Epilogue::IDENTITY, eps, tracking)
    }

    fn tensor(name: &'static str, role: Role, usage: Usage, address: usize, len: usize) -> Tensor {
        Tensor { name, role, usage, extent: Extent { address, len, bytes: 4 * len, stream: None } }
    }

    #[test]
    fn lengths_are_those_of_the_shape() {
        let problem = train(&[4, 3, 10], 1e-5, None).unwrap();
        for (kind, expected) in [(Role::Data, 120), (Role::Channel, 3), (Role::Counter, 1)] {
            problem.over(&[tensor("x", kind, Usage::Read, 64, expected)]).unwrap();
            for actual in [0, expected - 1, expected + 1] {
                if actual != expected {
                    let error = problem.over(&[tensor("x", kind, Usage::Read, 64, actual)]);
                    let text = error.unwrap_err().to_string();
                    assert_eq!(text, format!("x: expected {expected} values, got {actual}"));
                }
            }
        }
    }

    #[test]
    fn outputs_overlap_nothing_and_inputs_may() {
        let problem = train(&[4, 4], 1e-5, None).unwrap();
        let over = |usage, address| {
            problem.over(&[tensor("x", Role::Data, Usage::Read, 64, 16), tensor("y", Role::Data, usage, address, 16)])
        };
        over(Usage::Write, 128).unwrap();
        over(Usage::Write, 0).unwrap();
        over(Usage::Read, 64).unwrap();
        over(Usage::Write, usize::MAX - 3).unwrap();
        for address in [64, 124, 4] {
            let text = over(Usage::Write, address).unwrap_err().to_string();
            assert!(text.starts_with("y overlaps x: expected separate memory, got "), "{text}");
        }
    }

    #[test]
    fn the_relu_mask_belongs_to_add_relu() {
        let mask = tensor("relu_mask", Role::ReluMask, Usage::Read, 512, 4);
        let problem = |op, epilogue| Problem::new(op, shape(&[4, 30]), Dtype::F32, epilogue, 0.0, None).unwrap();
        for op in [Op::Train, Op::Infer].into_iter().chain(BACKWARD) {
            problem(op, Epilogue::ADD_RELU).over(&[mask]).unwrap();
            let error = problem(op, Epilogue::ADD).over(&[mask]).unwrap_err();
            assert!(matches!(error, Error::Unexpected { tensor: "relu_mask", .. }));
            // The backward pass of an add-relu whose dz nobody needs.
            assert_eq!(problem(op, Epilogue::RELU).over(&[mask]).is_ok(), op.is_backward());
        }
        for op in BACKWARD {
            let error = problem(op, Epilogue::ADD_RELU).over(&[]).unwrap_err();
            assert!(matches!(error, Error::Missing { tensor: "relu_mask", .. }));
            let empty = Problem::new(op, shape(&[0, 30]), Dtype::F32, Epilogue::ADD_RELU, 0.0, None).unwrap();
            empty.over(&[]).unwrap();
            assert!(matches!(empty.over(&[mask]), Err(Error::Length { expected: 0, actual: 4, .. })));
        }
        problem(Op::Train, Epilogue::ADD_RELU).over(&[]).unwrap();
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn buffers_are_of_the_stream_or_kept_in_order_with_it() {
        let here = StreamKey { device: 1, context: 7, stream: 16, is_tracked: false };
        let tracked = StreamKey { is_tracked: true, ..here };
        let problem = train(&[4, 4], 1e-5, None).unwrap();
        let check = |here: StreamKey, is_capturing, place| {
            let mut x = tensor("x", Role::Data, Usage::Read, 64, 16);
            x.extent.stream = Some(place);
            problem.check_streams(&here, is_capturing, &[x]).map_err(|error| error.to_string())
        };
        check(here, true, here).unwrap();
        check(tracked, false, StreamKey { stream: 32, ..tracked }).unwrap();
        let stream = "x: expected memory of stream 0x10, got memory of stream 0x20, and the context does not track \
                      events between streams";
        let capture = "stream 0x10 is being captured: expected a context that tracks no events between streams, got \
                       one that does (`CudaContext::disable_event_tracking`)";
        let context = "x: expected memory of the backend's CUDA context, got memory of another one on device 1";
        for (here, is_capturing, place, text) in [
            (
                here,
                false,
                StreamKey { device: 0, ..here },
                "x: expected memory of CUDA device 1, got memory of device 0",
            ),
            (here, false, StreamKey { context: 8, ..here }, context),
            (here, false, StreamKey { stream: 32, ..here }, stream),
            (here, false, StreamKey { stream: 32, ..tracked }, stream),
            (tracked, false, StreamKey { stream: 32, ..here }, stream),
            (tracked, true, tracked, capture),
            (here, true, tracked, capture),
        ] {
            assert_eq!(check(here, is_capturing, place).unwrap_err(), text);
        }
        let mut x = tensor("x", Role::Data, Usage::Read, 64, 0);
        x.extent.stream = Some(StreamKey { stream: 32, ..here });
        train(&[0, 4], 1e-5, None).unwrap().check_streams(&here, true, &[x]).unwrap();
    }

    #[test]
    fn an_offset_leaves_the_alignment_of_its_bytes() {
        for (dtype, offset, alignment) in [
            (Dtype::F32, 0, 16),
            (Dtype::F32, 1, 4),
            (Dtype::F32, 4, 16),
            (Dtype::F16, 1, 2),
            (Dtype::F16, 4, 8),
            (Dtype::F32, usize::MAX, 4),
            (Dtype::F64, usize::MAX, 8),
            (Dtype::F64, 1 << 61, 16),
        ] {
            let shape = Shape::nc(2, 3).unwrap();
            let problem = Problem::new(Op::Train, shape, dtype, Epilogue::IDENTITY, 1e-5, None).unwrap();
            assert_eq!(problem.with_offset(offset).alignment(), alignment, "{dtype} {offset}");
        }
    }

    #[test]
    fn alignment_is_that_of_the_least_aligned_data() {
        let problem = train(&[4, 4], 1e-5, None).unwrap();
        assert_eq!(problem.alignment(), 16);
        for (address, alignment) in [(0, 16), (64, 16), (72, 8), (66, 2), (65, 1)] {
            let over = problem.over(&[
                tensor("x", Role::Data, Usage::Read, 4096, 16),
                tensor("y", Role::Data, Usage::Write, address, 16),
                tensor("gamma", Role::Channel, Usage::Read, 8193, 4),
            ]);
            assert_eq!(over.unwrap().alignment(), alignment, "{address}");
        }
    }
}
