// Elementary functions of vectors. Needs simd-inl.h.
namespace tripos {
namespace {

// e^x within 2 ulp. Below -87.3 exactly 0, so that a masked score weighs nothing; above 88.3 it saturates.
inline Vec Exp(Vec x) {
  const Vec low = Set(-87.3f);
  const Vec clamped = Min(Max(x, low), Set(88.3f));
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

inline Vec Tanh(Vec x) {
  return Sub(Set(1.0f), Div(Set(2.0f), Add(Exp(Add(x, x)), Set(1.0f))));
}

}  // namespace
}  // namespace tripos
