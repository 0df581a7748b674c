// Elementary functions of vectors, one of each: an activation gives the same bits as an op and in a linear's epilogue.
// Needs simd-inl.h. NaN stays NaN.
#include <iterator>

namespace tripos {
namespace {

// e^x within 2 ulp. Below -87.3 exactly 0, so that a masked score weighs nothing; above 88.3 it saturates.
inline Vec Exp(Vec x) {
  const Vec low = Set(-87.3f);
  const Vec clamped = Min(Set(88.3f), Max(low, x));
  const Vec n = Round(Mul(clamped, Set(1.44269504f)));
  Vec r = Fma(n, Set(-0.693359375f), clamped);  // ln 2 in two parts (Cody and Waite)
  r = Fma(n, Set(2.12194440e-4f), r);
  Vec p = Set(1.9875691500e-4f);  // minimax on [-ln2/2, ln2/2] (Cephes expf)
  p = Fma(p, r, Set(1.3981999507e-3f));
  p = Fma(p, r, Set(8.3334519073e-3f));
  p = Fma(p, r, Set(4.1665795894e-2f));
  p = Fma(p, r, Set(1.6666665459e-1f));
  p = Fma(p, r, Set(5.0000001201e-1f));
  p = Add(Fma(Mul(r, r), p, r), Set(1.0f));
  return Select(Less(x, low), Set(0.0f), Mul(p, PowerOfTwo(n)));
}

// 2^x within 8e-5, for weights that are rounded to bytes, a step of which is fifty times that: half the work of Exp.
// x is at most 127; far below, 0.
inline Vec Exp2(Vec x) {
  const Vec n = Round(x);
  const Vec r = Sub(x, n);
  Vec p = Set(5.517167031e-02f);
  p = Fma(p, r, Set(2.426111252e-01f));
  p = Fma(p, r, Set(6.932609853e-01f));
  p = Fma(p, r, Set(9.999280730e-01f));
  return TimesPowerOfTwo(p, n);
}

// Below 0.625 a polynomial (Cephes tanhf): the other form's error is small beside 1 only.
inline Vec Tanh(Vec x) {
  const Vec z = Mul(x, x);
  Vec p = Fma(Set(-5.70498872745e-3f), z, Set(2.06390887954e-2f));
  p = Fma(p, z, Set(-5.37397155531e-2f));
  p = Fma(p, z, Set(1.33314422036e-1f));
  p = Fma(p, z, Set(-3.33332819422e-1f));
  const Vec far = Sub(Set(1.0f), Div(Set(2.0f), Add(Exp(Add(x, x)), Set(1.0f))));
  return Select(Less(Abs(x), Set(0.625f)), Fma(Mul(p, z), x, x), far);
}

// x / (1 + e^-z)
inline Vec Gate(Vec x, Vec z) { return DivNear(x, Add(Set(1.0f), Exp(Sub(Set(0.0f), z)))); }

inline Vec Silu(Vec x) { return Gate(x, x); }

// x (1 + tanh(u)) / 2 = x / (1 + e^-2u) with u = sqrt(2 / pi) (x + 0.044715 x^3)
inline Vec GeluTanh(Vec x) {
  const Vec cube = Mul(Mul(x, x), x);
  return Gate(x, Mul(Set(1.5957691216057308f), Fma(Set(0.044715f), cube, x)));
}

// x (1 + erf(x / sqrt(2))) / 2, where erf(z) = z p(t) with t = 2 z^2 / kEnd^2 - 1 on [-kEnd, kEnd], and +-1 beyond,
// within 1.2e-7. Least squares at 400 Chebyshev nodes; a Horner chain of 14 multiply-adds costs half of what exp and a
// division do.
inline Vec Gelu(Vec x) {
  constexpr float kEnd = 3.9f;
  constexpr float kCoefficients[] = {  // highest first
      1.567653929e-03f,  -4.050347577e-03f, 3.074359126e-03f,  -3.466252726e-03f, 1.207771636e-02f,
      -2.215592382e-02f, 3.008637862e-02f,  -4.178929017e-02f, 5.759946449e-02f,  -7.399474788e-02f,
      9.071649506e-02f,  -1.095162287e-01f, 1.346884660e-01f,  -1.810114731e-01f, 3.625839964e-01f,
  };
  const Vec z = Min(Max(Mul(x, Set(0.70710678f)), Set(-kEnd)), Set(kEnd));
  const Vec t = Fma(Mul(z, z), Set(2.0f / (kEnd * kEnd)), Set(-1.0f));
  Vec p = Set(kCoefficients[0]);
  for (size_t i = 1; i < std::size(kCoefficients); ++i) p = Fma(p, t, Set(kCoefficients[i]));
  const Vec half = Mul(x, Set(0.5f));
  return Fma(half, Mul(z, p), half);
}

}  // namespace
}  // namespace tripos
