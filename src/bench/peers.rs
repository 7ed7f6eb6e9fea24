//! The program that measures peers in Python, as it lies in `benches/peers`.

macro_rules! files {
    ($($name:literal)*) => { [$(($name, include_str!(concat!("../../benches/peers/", $name)))),*] };
}

/// Every file of the program by its name: `python3 peers.py` measures what it is asked to on stdin, as README.md there says.
/// Part of the library, since executables are carried to machines without the repository.
pub const PEERS: [(&str, &str); 11] = files! {
    "apex_peer.py"
    "bench.py"
    "cudnn_graph_peer.py"
    "inputs.py"
    "jax_peer.py"
    "peer.py"
    "peers.py"
    "reference.py"
    "rows.py"
    "timing.py"
    "torch_peers.py"
};

/// The peers that the program can measure, by the names that its `--peer` takes.
pub const PEER_NAMES: [&str; 6] = ["torch", "torch-cudnn", "torch-compile", "cudnn-graph", "jax", "apex-groupbn"];

#[cfg(test)]
mod tests {
    use super::{PEER_NAMES, PEERS};

    /// The names are those of peer.py.
    #[test]
    fn names_are_those_of_the_program() {
        let (_, text) = PEERS.iter().find(|(name, _)| *name == "peer.py").unwrap();
        let table = text.split_once("\nPEERS = {\n").unwrap().1.split_once("\n}\n").unwrap().0;
        let names: Vec<&str> = table.lines().map(|line| line.split('"').nth(1).unwrap()).collect();
        assert_eq!(names, PEER_NAMES);
    }

    #[test]
    fn nothing_is_missing() {
        let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers")).unwrap();
        let mut names: Vec<String> = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name.ends_with(".py") && !name.starts_with("test_"));
        names.sort();
        assert_eq!(names, PEERS.map(|(name, _)| name));
    }
}
