// Loads and stores with a cache hint: here plain ones, of the full width of their type, as the checks must see them.
#pragma once
#include "vector_types.h"

namespace cuda_emulator {

// A struct's copy may be split into its members; a value of a vector type is one access.
template <int kBytes>
struct Word;
template <>
struct Word<1> { typedef unsigned char type __attribute__((may_alias)); };
template <>
struct Word<2> { typedef unsigned short type __attribute__((may_alias)); };
template <>
struct Word<4> { typedef unsigned type __attribute__((may_alias)); };
template <>
struct Word<8> { typedef unsigned long long type __attribute__((may_alias)); };
template <>
struct Word<16> { typedef unsigned type __attribute__((vector_size(16), may_alias)); };

template <class T>
inline __attribute__((always_inline)) T load_whole(const T* address) {
    const auto word = *reinterpret_cast<const typename Word<sizeof(T)>::type*>(address);
    T value;
    __builtin_memcpy(&value, &word, sizeof(T));
    return value;
}

template <class T>
inline __attribute__((always_inline)) void store_whole(T* address, T value) {
    typename Word<sizeof(T)>::type word;
    __builtin_memcpy(&word, &value, sizeof(T));
    *reinterpret_cast<typename Word<sizeof(T)>::type*>(address) = word;
}

template <class T>
struct Same { typedef T type; };

}  // namespace cuda_emulator

#define CUDA_EMULATOR_LOAD(name)                                    \
    template <class T>                                              \
    inline __attribute__((always_inline)) T name(const T* address) { \
        return ::cuda_emulator::load_whole(address);                \
    }
#define CUDA_EMULATOR_STORE(name)                                                                               \
    template <class T>                                                                                          \
    inline __attribute__((always_inline)) void name(T* address, typename ::cuda_emulator::Same<T>::type value) { \
        ::cuda_emulator::store_whole(address, value);                                                           \
    }
CUDA_EMULATOR_LOAD(__ldg)
CUDA_EMULATOR_LOAD(__ldca)
CUDA_EMULATOR_LOAD(__ldcg)
CUDA_EMULATOR_LOAD(__ldcs)
CUDA_EMULATOR_LOAD(__ldlu)
CUDA_EMULATOR_LOAD(__ldcv)
CUDA_EMULATOR_STORE(__stwb)
CUDA_EMULATOR_STORE(__stcg)
CUDA_EMULATOR_STORE(__stcs)
CUDA_EMULATOR_STORE(__stwt)
#undef CUDA_EMULATOR_LOAD
#undef CUDA_EMULATOR_STORE
