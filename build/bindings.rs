// The options by which bindgen makes the bindings of kernels/abi.h. Shared by build.rs (feature `bindgen`) and `cargo xtask bindings`.

/// Every item of ours, and nothing of the headers included. Enums are newtypes: what C returns may be any integer.
pub(crate) fn builder(header: &str) -> Result<bindgen::Builder, Box<dyn std::error::Error>> {
    let rust = bindgen::RustTarget::stable(88, 0).map_err(|e| e.to_string())?;
    Ok(bindgen::builder()
        .header(header)
        .rust_target(rust)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .use_core()
        .wrap_unsafe_ops(true)
        .allowlist_item("bn_.*|Bn.*|BN_.*")
        .allowlist_recursively(false)
        .default_enum_style(bindgen::EnumVariation::NewType { is_bitfield: false, is_global: false })
        .layout_tests(true)
        .merge_extern_blocks(true)
        .clang_arg("-fparse-all-comments"))
}
