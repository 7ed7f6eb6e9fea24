// The fuzz targets' work on a file's bytes. The test `fuzz_corpus` replays the corpus through these very functions.

use batchnorm::tensors::Tensors;
use batchnorm::{BatchNorm, Cpu, Dtype, Layout, Options, Shape, StateDict, with_element};

/// An input file of the command line: every tensor is read in every way, and what is read has the size it says.
pub(crate) fn input(bytes: &[u8]) {
    let Ok(tensors) = Tensors::parse(bytes) else { return };
    for name in tensors.names() {
        let dims = tensors.dims(name).expect("a name of the file");
        let len = |len: usize| assert_eq!(len, dims.iter().product::<usize>());
        drop(tensors.dtype(name));
        for &dtype in Dtype::ALL {
            let read = with_element!(dtype, T => tensors.data::<T>(name, &dims).map(|data| data.len()));
            read.into_iter().for_each(len);
        }
        for layout in [Layout::ChannelsFirst, Layout::ChannelsLast] {
            if let Ok(shape) = Shape::new(&dims, layout) {
                len(shape.len());
                drop(tensors.channels::<f32>(name, shape.c()));
            }
        }
        if let [c] = dims[..]
            && let Ok(values) = tensors.channels::<f64>(name, c)
        {
            len(values.len());
        }
        if let Ok(count) = tensors.count(name) {
            assert!(count >= 0);
        }
    }
    tensors.dims("no such tensor \n").expect_err("refused");
}

/// A state file: a layer loads it, or is as it was.
pub(crate) fn state(bytes: &[u8]) {
    let Ok(tensors) = Tensors::parse(bytes) else { return };
    let mut layer = BatchNorm::new(Cpu, 3, Options::default()).expect("a layer");
    let before = layer.state_dict().expect("a state");
    match StateDict::from_tensors(&tensors, "", 3, &Options::default()) {
        Ok(state) => layer.load_state_dict(&state).expect("a state of this layer"),
        Err(_) => assert_eq!(layer.state_dict().expect("a state"), before),
    }
}
