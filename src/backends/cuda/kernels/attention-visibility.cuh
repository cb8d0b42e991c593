// Which keys a query of an attention kernel sees: causal, sliding window, packed documents, more keys than queries.
#pragma once
#include "prelude.cuh"

constexpr int UNBOUNDED = 1 << 29;

struct Visibility {
  int queries;
  int keys;
  /** Query i sees keys from i + firstOffset on, up to i + endOffset. */
  int firstOffset;
  int endOffset;
  /** Of this sequence, or null. Never falls from one position to the next. */
  const int* docStart;
};
TY_INLINE Visibility visibilityOf(int batch, int queries, int keys, int isCausal, int window, const int* docStart) {
  return {
      queries,
      keys,
      window > 0 ? keys - queries - window + 1 : -UNBOUNDED,
      isCausal ? keys - queries + 1 : UNBOUNDED,
      docStart == nullptr ? nullptr : docStart + (i64)batch * keys};
}
/** First key that a query sees; neither this nor `endKey` falls from one query to the next. */
TY_INLINE int firstKey(const Visibility& v, int query) {
  const int row = min(query, v.queries - 1);
  const int first = max(0, row + v.firstOffset);
  return v.docStart == nullptr ? first : max(first, v.docStart[row]);
}
/** One past the last key that a query sees; 0 or less if it sees none. */
TY_INLINE int endKey(const Visibility& v, int query) { return min(v.keys, min(query, v.queries - 1) + v.endOffset); }
