//! The state of a layer in files and between devices.

use batchnorm::tensors::{TensorFile, Tensors, read};
use batchnorm::{Cpu, Error, Options, StateDict};

use super::{Layer, data, layer, step};

#[test]
fn state_survives_files_and_devices() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    for prefix in ["", "layer1.0.bn1."] {
        let (mut layer, mut saved) = layer(Options::default());
        layer.gamma_mut().unwrap().copy_from_slice(&[1.5, -0.5, f32::MIN_POSITIVE]);
        (0..7).for_each(|i| drop(step(&mut layer, &mut saved, &data(i))));
        layer.save(&path, prefix).unwrap();
        let (mut loaded, _) = super::layer(Options::default());
        loaded.load(&path, prefix).unwrap();
        assert_eq!(loaded.state_dict().unwrap(), layer.state_dict().unwrap());
        assert_eq!(layer.to(Cpu).unwrap().state_dict().unwrap(), layer.state_dict().unwrap());
        let bytes = read(&path).unwrap();
        let names = ["bias", "num_batches_tracked", "running_mean", "running_var", "weight"];
        let tensors = Tensors::parse(&bytes).unwrap();
        assert_eq!(tensors.names(), names.map(|name| format!("{prefix}{name}")));
    }
}

#[test]
fn a_state_that_could_not_be_loaded_is_not_saved() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    let (mut layer, _) = layer(Options::default());
    layer.params_mut().gamma.unwrap().push(1.0);
    let refused = [layer.save(&path, "").err(), layer.state_dict().err(), layer.to(Cpu).err()];
    for error in refused {
        assert_eq!(error.unwrap().to_string(), "gamma: expected 3 values, got 4");
    }
    assert!(!path.exists());
    layer.params_mut().gamma.unwrap().pop();
    layer.save(&path, "").unwrap();
}

#[test]
fn a_state_is_added_to_a_file_as_a_whole_or_not_at_all() {
    let state = StateDict::<f32>::new(3, &Options::default()).unwrap();
    let mut file = TensorFile::default();
    file.push("bn.running_var", &[1], &[7.0f32]).unwrap();
    let error = state.to_tensors(&mut file, "bn.").unwrap_err().to_string();
    assert_eq!(error, "bn.running_var: expected a name that the file has not yet, got it twice");
    assert_eq!(file.names().collect::<Vec<_>>(), ["bn.running_var"]);
    state.to_tensors(&mut file, "bn2.").unwrap();
    assert!(matches!(state.to_tensors(&mut file, "bn2."), Err(Error::TensorRepeated { .. })));
    assert_eq!(file.names().count(), 6);
}

#[test]
fn a_file_that_is_not_the_layers_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    let (mut layer, mut saved) = layer(Options::default());
    step(&mut layer, &mut saved, &data(0));
    let before = layer.state_dict().unwrap();
    let mut refused = |options: Options, write: &dyn Fn(&mut TensorFile)| {
        let mut file = TensorFile::default();
        write(&mut file);
        file.write(&path).unwrap();
        let mut other = Layer::new(Cpu, 3, options).unwrap();
        let error = other.load(&path, "bn.").unwrap_err().to_string();
        assert_eq!(other.state_dict().unwrap(), StateDict::new(3, &options).unwrap(), "{error}");
        if options == Options::default() {
            assert_eq!(layer.load(&path, "bn.").unwrap_err().to_string(), error);
        }
        error
    };
    let all = |file: &mut TensorFile| before.to_tensors(file, "bn.").unwrap();
    let default = Options::default();
    assert_eq!(
        refused(default, &|file| before.to_tensors(file, "").unwrap()),
        "bn.weight: expected in the file, which has bias, num_batches_tracked, running_mean, running_var, weight"
    );
    assert_eq!(
        refused(Options { gamma: false, ..default }, &all),
        "bn.weight: not expected in the file, since the layer was built without it"
    );
    assert_eq!(
        refused(Options { tracking: None, ..default }, &all),
        "bn.running_mean: not expected in the file, since the layer was built without it"
    );
    let mut wide = before.clone();
    wide.running.as_mut().unwrap().var.push(1.0);
    assert_eq!(
        refused(default, &|file| wide.to_tensors(file, "bn.").unwrap()),
        "bn.running_var: expected dimensions [3], got [4]"
    );
    let without_bias = StateDict { beta: None, ..before.clone() };
    let with_a_count = |file: &mut TensorFile| {
        without_bias.to_tensors(file, "bn.").unwrap();
        file.push_count("bn.bias", 3).unwrap();
    };
    assert_eq!(refused(default, &with_a_count), "bn.bias: expected f32, f16, bf16 or f64, got dtype I64");
    let mut uncounted = before.clone();
    uncounted.running.as_mut().unwrap().num_batches_tracked = -1;
    assert_eq!(
        refused(default, &|file| uncounted.to_tensors(file, "bn.").unwrap()),
        "bn.num_batches_tracked: expected a count >= 0, got -1"
    );
    std::fs::write(&path, &read(&path).unwrap()[..100]).unwrap();
    assert!(matches!(layer.load(&path, "bn."), Err(Error::Format { .. })));
    assert!(matches!(layer.load(folder.path().join("absent"), "bn."), Err(Error::Io { .. })));
    assert_eq!(layer.state_dict().unwrap(), before);

    let mut short = before.clone();
    short.beta.as_mut().unwrap().pop();
    assert_eq!(layer.load_state_dict(&short).unwrap_err().to_string(), "beta: expected 3 values, got 2");
    let mut negative = before.clone();
    negative.running.as_mut().unwrap().num_batches_tracked = -5;
    assert!(matches!(layer.load_state_dict(&negative), Err(Error::NegativeCount { actual: -5, .. })));
    let without = StateDict { gamma: None, ..before.clone() };
    assert_eq!(
        layer.load_state_dict(&without).unwrap_err().to_string(),
        "gamma is missing: the layer was built with it"
    );
    assert_eq!(layer.state_dict().unwrap(), before);
}
