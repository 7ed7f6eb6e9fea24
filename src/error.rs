//! Every way a call can be refused, one variant a cause, with the numbers in it.

mod codes;

use codes::{is_fatal, known};

use crate::op::{Epilogue, ForwardPass, Op};
use crate::plan::Strategy;
use crate::shape::Shape;

/// The result of every fallible function of this crate.
pub type Result<T, E = Error> = core::result::Result<T, E>;

/// Why a call was refused. Nothing was written then: buffers, statistics and files are as they were.
///
/// Two variants can also come after the work was handed to the device: [`Error::Driver`] and [`Error::Launch`]. The
/// state of a layer is then either wholly updated or as it was; outputs may hold anything.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A shape has fewer than 2 or more than 5 dimensions.
    #[error("shape {dims:?}: expected 2 to 5 dimensions, got {}", dims.len())]
    #[non_exhaustive]
    Rank {
        /// The dimensions as given.
        dims: Vec<usize>,
    },
    /// A shape has no channels.
    #[error("shape {dims:?}: expected at least 1 channel, got 0")]
    #[non_exhaustive]
    ZeroChannels {
        /// The dimensions as given.
        dims: Vec<usize>,
    },
    /// The product of the dimensions does not fit the address space.
    #[error("shape {dims:?}: expected at most {limit} values, got more")]
    #[non_exhaustive]
    SizeOverflow {
        /// The dimensions as given.
        dims: Vec<usize>,
        /// The largest number of values a tensor may hold.
        limit: usize,
    },
    /// A buffer has the wrong number of values.
    #[error("{tensor}: expected {expected} values, got {actual}")]
    #[non_exhaustive]
    Length {
        /// The argument's name.
        tensor: &'static str,
        /// The number that the shape asks for.
        expected: usize,
        /// The number that the buffer holds.
        actual: usize,
    },
    /// An output overlaps another argument in memory.
    #[error("{output} overlaps {other}: expected separate memory, got {bytes} bytes in common")]
    #[non_exhaustive]
    Aliasing {
        /// The output's name.
        output: &'static str,
        /// The name of the argument that it overlaps.
        other: &'static str,
        /// Number of bytes that they share.
        bytes: usize,
    },
    /// An optional argument is absent where the operation cannot do without it.
    #[error("{tensor} is missing: {reason}")]
    #[non_exhaustive]
    Missing {
        /// The argument's name.
        tensor: &'static str,
        /// The reason why it is needed.
        reason: &'static str,
    },
    /// An optional argument is present where the operation has no use for it.
    #[error("{tensor} is not expected: {reason}")]
    #[non_exhaustive]
    Unexpected {
        /// The argument's name.
        tensor: &'static str,
        /// The reason why it has no place.
        reason: &'static str,
    },
    /// Training with one value a channel, where the unbiased running variance would divide by zero.
    #[error("shape {shape}: expected at least 2 values per channel to train with an unbiased running variance, got 1")]
    #[non_exhaustive]
    OneValuePerChannel {
        /// The shape of the call.
        shape: Shape,
    },
    /// `eps` is negative or not finite.
    #[error("eps: expected a finite value >= 0, got {actual}")]
    #[non_exhaustive]
    Eps {
        /// The value given.
        actual: f64,
    },
    /// `momentum` is outside [0, 1] or not finite.
    #[error("momentum: expected a value in [0, 1], got {actual}")]
    #[non_exhaustive]
    Momentum {
        /// The value given.
        actual: f64,
    },
    /// The operation takes no such epilogue: none at all, or not this activation behind a residual.
    #[error("{}: expected {}, got {actual}", op.name(), epilogues_of(*op))]
    #[non_exhaustive]
    Epilogue {
        /// The operation.
        op: Op,
        /// The epilogue's name.
        actual: &'static str,
    },
    /// A tensor's channels are not the layer's.
    #[error("shape {shape}: expected {expected} channels, got {}", shape.c())]
    #[non_exhaustive]
    Channels {
        /// The shape of the call.
        shape: Shape,
        /// The layer's channels.
        expected: usize,
    },
    /// A call's shape, or its layout, is not that which `saved` was made for, nor a smaller batch of it.
    #[error("saved statistics: expected {expected} or a smaller batch of it, got {actual}")]
    #[non_exhaustive]
    SavedShape {
        /// The shape that the statistics were made for.
        expected: Shape,
        /// The shape of the call.
        actual: Shape,
    },
    /// A backward pass of another batch size than the forward pass had whose statistics it was given.
    #[error("saved statistics: expected a batch of {expected}, as the forward pass had, got {actual}")]
    #[non_exhaustive]
    SavedBatch {
        /// The batch size of the forward pass.
        expected: usize,
        /// That of the call.
        actual: usize,
    },
    /// `saved` was written by a forward pass of another epilogue than this backward pass has, or by none.
    #[error("saved statistics: expected those of a forward pass with the epilogue {}, got {}", expected.name(), written_by(actual))]
    #[non_exhaustive]
    SavedPass {
        /// The epilogue of the backward pass.
        expected: Epilogue<()>,
        /// The forward pass that wrote them; `None` where none has, or the last one failed on the device.
        actual: Option<ForwardPass>,
    },
    /// A layer that tracks no running statistics was asked to use them.
    #[error("the layer tracks no running statistics: expected `Options::tracking`, got `None`")]
    NotTracking,
    /// There is no CUDA driver on this machine.
    #[error("no CUDA driver: expected a library of the names {names}, got {reason}")]
    #[non_exhaustive]
    NoDriver {
        /// The names that were tried.
        names: String,
        /// The words of the system's loader.
        reason: String,
    },
    /// The process was forked from one that had used CUDA, which a forked process cannot use.
    #[error("CUDA: expected process {expected}, which used it first, got process {actual}, which was forked from it")]
    #[non_exhaustive]
    Forked {
        /// The process that used CUDA first.
        expected: u32,
        /// This process.
        actual: u32,
    },
    /// The driver has no device of that number.
    #[error("CUDA device {ordinal}: expected a number below the count of devices, which is {count}")]
    #[non_exhaustive]
    NoDevice {
        /// The number asked for.
        ordinal: usize,
        /// Number of devices.
        count: usize,
    },
    /// The device is older than any that the kernels are built for.
    #[error(
        "CUDA device {ordinal}: expected compute capability {}.{} or newer, got {}.{}",
        expected.0, expected.1, actual.0, actual.1
    )]
    #[non_exhaustive]
    DeviceTooOld {
        /// The device's number.
        ordinal: usize,
        /// The oldest compute capability, major and minor, that there are kernels for.
        expected: (u32, u32),
        /// The device's.
        actual: (u32, u32),
    },
    /// Kernels need more registers or shared memory than a plan counts on: crate and device do not suit each other.
    #[error(
        "{call}: expected room for {expected} blocks of threads of kernel {kernel} on a multiprocessor, got {actual}"
    )]
    #[non_exhaustive]
    Residency {
        /// The function that found it.
        call: &'static str,
        /// The kernel, with its dtype and form.
        kernel: String,
        /// The blocks that every plan counts on.
        expected: u32,
        /// The blocks that fit.
        actual: u32,
    },
    /// The device or the host has no memory left.
    #[error("out of memory: expected room for {bytes} bytes")]
    #[non_exhaustive]
    OutOfMemory {
        /// The bytes asked for.
        bytes: usize,
    },
    /// The CUDA driver refused a call, or reports an earlier failure with it.
    #[error("{call}: expected success, got CUDA driver error {code}{}", known(*code))]
    #[non_exhaustive]
    Driver {
        /// The action that failed.
        call: &'static str,
        /// The `CUresult`.
        code: u32,
    },
    /// The CUDA runtime refused a launch.
    #[error("{call}: expected success, got CUDA runtime error {code}{}", known(*code))]
    #[non_exhaustive]
    Launch {
        /// The launch function.
        call: &'static str,
        /// The `cudaError_t`.
        code: u32,
    },
    /// The CUDA runtime refused to make a kernel ready for its launches.
    #[error("kernel {kernel}, {call}: expected success, got CUDA runtime error {code}{}", known(*code))]
    #[non_exhaustive]
    Prepare {
        /// The kernel, with its dtype and form.
        kernel: String,
        /// The function of the CUDA runtime.
        call: String,
        /// The `cudaError_t`.
        code: u32,
    },
    /// A kernel was compiled with static shared memory, which no plan leaves room for.
    #[error("kernel {kernel}: expected no static shared memory, got {actual} bytes")]
    #[non_exhaustive]
    StaticShared {
        /// The kernel, with its dtype and form.
        kernel: String,
        /// Its static shared memory, in bytes.
        actual: u32,
    },
    /// A device whose architecture has thread-block clusters of this size has room for none.
    #[error("clusters of {size} thread blocks: expected room for at least 1 on the device, got {actual}")]
    #[non_exhaustive]
    Clusters {
        /// The thread blocks of a cluster.
        size: u32,
        /// The clusters that fit.
        actual: u32,
    },
    /// A workspace is too small. [`BatchNorm::reserve`](crate::BatchNorm::reserve) and
    /// [`Backend::workspace`](crate::Backend::workspace) make one that is not.
    #[error("workspace: expected at least {needed} bytes, got {actual}")]
    #[non_exhaustive]
    Workspace {
        /// The bytes that the plan needs.
        needed: usize,
        /// The bytes that the workspace has.
        actual: usize,
    },
    /// A forced strategy cannot hold the problem on this device.
    #[error("strategy {strategy}: expected a channel tile of at most {limit} bytes on chip, got {actual}")]
    #[non_exhaustive]
    Strategy {
        /// The strategy.
        strategy: Strategy,
        /// The bytes that a channel tile may have.
        limit: usize,
        /// The bytes of the problem's smallest channel tile.
        actual: usize,
    },
    /// A probe of a size that the device or its buffers do not have.
    #[cfg(feature = "bench")]
    #[error("probe: expected {expected}, got {actual}")]
    #[non_exhaustive]
    Probe {
        /// The range or kind that would do.
        expected: String,
        /// The value that was given.
        actual: u64,
    },
    /// A forced strategy needs what this device does not have: thread-block clusters, or cooperative launches.
    #[error("strategy {strategy}: expected a device that has {}, got one that has not", needs(.strategy))]
    #[non_exhaustive]
    NoStrategy {
        /// The strategy.
        strategy: Strategy,
    },
    /// A table of plans has something at a place that cannot be there.
    #[error("plan table, {place}: expected {expected}, got {actual}")]
    #[non_exhaustive]
    PlanTable {
        /// The place, such as `row 3`.
        place: String,
        /// The range or kind that would do.
        expected: String,
        /// The value found.
        actual: String,
    },
    /// A table of plans was measured on another device, by another version of this crate or with other kernels.
    #[error("plan table: expected the {what} {expected}, got {actual}: `batchnorm tune` measures plans of a device")]
    #[non_exhaustive]
    ForeignPlanTable {
        /// The fact that differs.
        what: &'static str,
        /// The device's, or this build's.
        expected: String,
        /// The table's.
        actual: String,
    },
    /// A file with a table of plans is none, or its table is refused.
    #[error("{path}: {source}")]
    #[non_exhaustive]
    PlanFile {
        /// The file's path.
        path: String,
        /// The reason.
        source: Box<Error>,
    },
    /// The file that the environment variable `BATCHNORM_PLANS` names is refused.
    #[error("BATCHNORM_PLANS: {source}")]
    #[non_exhaustive]
    PlanVariable {
        /// The reason, with the file's name.
        source: Box<Error>,
    },
    /// A buffer is on another device than the backend.
    #[error("{tensor}: expected memory of CUDA device {expected}, got memory of device {actual}")]
    #[non_exhaustive]
    ForeignDevice {
        /// The argument's name.
        tensor: &'static str,
        /// The backend's device.
        expected: usize,
        /// The buffer's device.
        actual: usize,
    },
    /// A buffer is of another CUDA context than the backend, on the same device.
    #[error("{tensor}: expected memory of the backend's CUDA context, got memory of another one on device {device}")]
    #[non_exhaustive]
    ForeignContext {
        /// The argument's name.
        tensor: &'static str,
        /// The device of both.
        device: usize,
    },
    /// A buffer is of another stream than the backend's, and no events keep the two in order.
    #[error(
        "{tensor}: expected memory of stream {expected:#x}, got memory of stream {actual:#x}, and the context does not \
         track events between streams"
    )]
    #[non_exhaustive]
    ForeignStream {
        /// The argument's name.
        tensor: &'static str,
        /// The handle of the backend's stream.
        expected: usize,
        /// The handle of the buffer's stream.
        actual: usize,
    },
    /// The stream is being captured into a graph while its context tracks events, which a graph cannot wait for.
    #[error(
        "stream {stream:#x} is being captured: expected a context that tracks no events between streams, got one that \
         does (`CudaContext::disable_event_tracking`)"
    )]
    #[non_exhaustive]
    Capture {
        /// The handle of the stream.
        stream: usize,
    },
    /// A dtype name that this crate does not know, or a dtype that has no place here.
    #[error("{tensor}: expected {expected}, got dtype {actual}")]
    #[non_exhaustive]
    Dtype {
        /// The tensor's name.
        tensor: String,
        /// The dtypes that would do.
        expected: String,
        /// The dtype found.
        actual: String,
    },
    /// A file has no tensor of that name.
    #[error("{tensor}: expected in the file, which has {actual}")]
    #[non_exhaustive]
    TensorMissing {
        /// The tensor's name.
        tensor: String,
        /// The names the file has, abbreviated.
        actual: String,
    },
    /// A file has a tensor that the layer has no place for.
    #[error("{tensor}: not expected in the file, since the layer was built without it")]
    #[non_exhaustive]
    TensorUnexpected {
        /// The tensor's name.
        tensor: String,
    },
    /// A file's tensor has the wrong dimensions.
    #[error("{tensor}: expected dimensions {expected:?}, got {actual:?}")]
    #[non_exhaustive]
    TensorShape {
        /// The tensor's name.
        tensor: String,
        /// The dimensions asked for.
        expected: Vec<usize>,
        /// The dimensions found.
        actual: Vec<usize>,
    },
    /// A tensor to be written has another number of values than its dimensions say.
    #[error("{tensor} of dimensions {dims:?}: expected {expected} values, got {actual}")]
    #[non_exhaustive]
    TensorLength {
        /// The tensor's name.
        tensor: String,
        /// The dimensions given.
        dims: Vec<usize>,
        /// Their product; `usize::MAX` where it is beyond that.
        expected: usize,
        /// The number of values given.
        actual: usize,
    },
    /// A file to be written has a tensor of that name already.
    #[error("{tensor}: expected a name that the file has not yet, got it twice")]
    #[non_exhaustive]
    TensorRepeated {
        /// The tensor's name.
        tensor: String,
    },
    /// A file can hold no tensor of that name.
    #[error("{tensor}: expected the name of a tensor, got the one that the format keeps for itself")]
    #[non_exhaustive]
    TensorName {
        /// The name.
        tensor: String,
    },
    /// A file to be written has more names and dimensions than the format allows.
    #[error("a safetensors file: expected a header of at most 100000000 bytes, got {reason}")]
    #[non_exhaustive]
    Header {
        /// The words of the serializer.
        reason: String,
    },
    /// A count of batches is negative.
    #[error("{tensor}: expected a count >= 0, got {actual}")]
    #[non_exhaustive]
    NegativeCount {
        /// The tensor's name.
        tensor: String,
        /// The count found.
        actual: i64,
    },
    /// The bytes are no safetensors file.
    #[error("not a safetensors file: expected a header and the tensors it names, got {reason}")]
    #[non_exhaustive]
    Format {
        /// The words of the parser.
        reason: String,
    },
    /// A file to be written has the name of what is no regular file, which would be lost.
    #[error("{path}: expected a regular file or a new one, got {actual}")]
    #[non_exhaustive]
    NotAFile {
        /// The path given.
        path: String,
        /// The kind of thing that is there.
        actual: &'static str,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    #[non_exhaustive]
    Io {
        /// The file's path.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
}

impl Error {
    /// Whether the device's context is lost with this error: every later call of the process fails by it, whatever it asks
    /// for, and only another process can go on.
    pub fn is_device_lost(&self) -> bool {
        matches!(self, Self::Driver { code, .. } | Self::Launch { code, .. } | Self::Prepare { code, .. } if is_fatal(*code))
    }

    pub(crate) fn dtype(tensor: &str, expected: &str, actual: impl ToString) -> Self {
        Self::Dtype { tensor: tensor.into(), expected: expected.into(), actual: actual.to_string() }
    }
}

/// The forward pass that wrote saved statistics, in words.
fn written_by(pass: &Option<ForwardPass>) -> String {
    match pass {
        Some(pass) => format!("those of {pass}"),
        None => "none, since no forward pass has written them or the last one failed".into(),
    }
}

/// The epilogues that an operation can have, in words.
fn epilogues_of(op: Op) -> String {
    if !op.takes_epilogue() {
        return "no epilogue".into();
    }
    let names: Vec<&str> = op.epilogues().iter().map(Epilogue::name).collect();
    format!("one of the epilogues {}", names.join(", "))
}

/// The feature of a device that a strategy takes.
fn needs(strategy: &Strategy) -> &'static str {
    match strategy {
        Strategy::Cluster => "thread-block clusters",
        Strategy::Grid => "cooperative launches",
        Strategy::Block | Strategy::TwoPass => "shared memory",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::StatisticsKind;

    #[test]
    fn a_lost_device_is_told_from_a_refused_launch() {
        let prepare = |code| Error::Prepare { kernel: "fill".into(), call: "cudaFuncGetAttributes".into(), code };
        let each =
            |code| [Error::Driver { call: "upload", code }, Error::Launch { call: "bn_train", code }, prepare(code)];
        for code in [214, 700, 702, 710, 715, 716, 719, 999] {
            assert!(each(code).iter().all(Error::is_device_lost), "{code}");
        }
        // Out of resources, a cooperative launch too large, what a capture does not permit: the next launch may do.
        for code in [1, 2, 400, 701, 720, 801, 900, 906] {
            assert!(!each(code).iter().any(Error::is_device_lost), "{code}");
        }
        assert!(!Error::OutOfMemory { bytes: 700 }.is_device_lost());
    }

    #[test]
    fn texts_say_expected_and_actual() {
        for (error, text) in [
            (
                Error::NoDevice { ordinal: 3, count: 1 },
                "CUDA device 3: expected a number below the count of devices, which is 1",
            ),
            (
                Error::DeviceTooOld { ordinal: 0, expected: (8, 0), actual: (7, 5) },
                "CUDA device 0: expected compute capability 8.0 or newer, got 7.5",
            ),
            (
                Error::Driver { call: "upload", code: 700 },
                "upload: expected success, got CUDA driver error 700 (illegal address)",
            ),
            (
                Error::Launch { call: "bn_train", code: 12345 },
                "bn_train: expected success, got CUDA runtime error 12345",
            ),
            (
                Error::SavedPass {
                    expected: Epilogue::RELU,
                    actual: Some(ForwardPass { statistics: StatisticsKind::Running, epilogue: Epilogue::ADD_RELU }),
                },
                "saved statistics: expected those of a forward pass with the epilogue relu, got those of `frozen` with \
                 the epilogue add-relu",
            ),
            (
                Error::SavedPass { expected: Epilogue::IDENTITY, actual: None },
                "saved statistics: expected those of a forward pass with the epilogue identity, got none, since no \
                 forward pass has written them or the last one failed",
            ),
            (Error::Workspace { needed: 512, actual: 0 }, "workspace: expected at least 512 bytes, got 0"),
            (
                Error::NoStrategy { strategy: Strategy::Cluster },
                "strategy cluster: expected a device that has thread-block clusters, got one that has not",
            ),
            (
                Error::Strategy { strategy: Strategy::Block, limit: 232_448, actual: 4_000_000 },
                "strategy block: expected a channel tile of at most 232448 bytes on chip, got 4000000",
            ),
            (
                Error::ForeignStream { tensor: "x", expected: 0, actual: 0x2a },
                "x: expected memory of stream 0x0, got memory of stream 0x2a, and the context does not track events \
                 between streams",
            ),
        ] {
            assert_eq!(error.to_string(), text);
        }
    }
}
