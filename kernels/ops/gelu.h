// erf without a division: erf(z) = z p(t) with t = 2 z^2 / kErfEnd^2 - 1 on [-kErfEnd, kErfEnd], and +-1 beyond, within
// 1.2e-7. Least squares at 400 Chebyshev nodes; a Horner chain of 14 multiply-adds costs half of what exp and a division
// do.
#ifndef TRIPOS_OPS_GELU_H_
#define TRIPOS_OPS_GELU_H_

namespace tripos {

inline constexpr float kErfEnd = 3.9f;
inline constexpr float kErfCoefficients[] = {  // lowest first
    3.625839964e-01f, -1.810114731e-01f, 1.346884660e-01f, -1.095162287e-01f, 9.071649506e-02f,
    -7.399474788e-02f, 5.759946449e-02f, -4.178929017e-02f, 3.008637862e-02f, -2.215592382e-02f,
    1.207771636e-02f, -3.466252726e-03f, 3.074359126e-03f, -4.050347577e-03f, 1.567653929e-03f,
};
inline constexpr int kErfDegree = 14;

}  // namespace tripos

#endif  // TRIPOS_OPS_GELU_H_
