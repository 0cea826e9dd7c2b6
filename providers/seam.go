package providers

import (
	"unicode"
	"unicode/utf8"
)

const (
	// SeamBytes is how much of the end of what was said is looked at for a
	// repetition, and so the most that a Seam holds back.
	SeamBytes = 2 << 10
	// SeamEvidence is how many bytes of letters and digits a repetition must
	// have to be taken for one. Less is often the answer's own: a closing brace
	// behind another, a line end, the next row of a table.
	SeamEvidence = 6
)

// A Seam joins an answer that broke off to its continuation. Models that were
// asked to go on (see ContinuePrompt) like to say their last words again; a
// Seam takes the longest text away with which the continuation begins and
// which the partial answer ends with.
//
// Only a repetition with SeamEvidence is taken away, or, since a model goes
// back to the beginning of a short answer, one of the whole partial answer
// that has a letter or a digit at all. Nothing else is changed: a
// continuation that begins with other words or other white space comes as it
// is. An answer that repeats itself by nature, such as a list of zeros, can lose
// some of them here; it can't be told. What a model with prefill writes needs no Seam: it can't repeat by
// mistake what it takes for its own beginning.
//
// Text is held back only as long as it may still turn out to be a repetition,
// which is while it stands in the last SeamBytes of the partial answer, and
// all of it is let go with the first character that rules this out. The time
// is linear in SeamBytes and the text that is held; a Feed allocates only
// where it lets go what an earlier one held.
//
// A Seam is for one continuation and one goroutine.
type Seam struct {
	// Set by NewSeam, then read-only.
	tail  string // of the partial answer
	least int    // the length of the shortest repetition that counts

	// This is Knuth, Morris and Pratt's search for the continuation's
	// beginning in tail, with a pattern that grows: held is its length,
	// tail[at-held:at] its leftmost place, and therefore its text as well;
	// border[i] is the length of the longest proper beginning of pattern[:i+1]
	// that is its end, too.
	at, held int
	border   [SeamBytes]uint16
	settled  bool
}

// NewSeam returns the seam behind partial, both it and the continuation being
// valid UTF-8 that is split between characters.
func NewSeam(partial string) *Seam {
	s := &Seam{tail: partial[max(0, len(partial)-SeamBytes):]}
	evidence := 0
	for left := s.tail; left != "" && evidence < SeamEvidence; {
		r, n := utf8.DecodeLastRuneInString(left)
		left = left[:len(left)-n]
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			evidence += n
		}
		s.least = len(s.tail) - len(left)
	}
	s.settled = evidence == 0 || evidence < SeamEvidence && len(s.tail) < len(partial)
	return s
}

// Feed takes the continuation's next text and returns what to write now.
func (s *Seam) Feed(text string) string {
	if s.settled {
		return text
	}
	held := s.tail[s.at-s.held : s.at]
	for i := range len(text) {
		if s.extend(int(text[i])) {
			continue
		}
		if n := s.held - len(held); n >= 0 {
			return text[n:]
		}
		return held[s.held:] + text
	}
	return ""
}

// Flush returns what is held back and turned out to be no repetition. The
// continuation has ended.
func (s *Seam) Flush() string {
	if s.settled {
		return ""
	}
	held := s.tail[s.at-s.held : s.at]
	s.extend(noByte)
	return held[s.held:]
}

// noByte continues no text.
const noByte = -1

// extend puts b behind the pattern and finds its next place in tail. It
// reports whether a repetition that is longer than the pattern is possible. If
// not, the seam is settled, and held is the length of the repetition.
func (s *Seam) extend(b int) bool {
	m, from := s.held, s.at-s.held
	pattern := func(i int) int {
		if i == m {
			return b
		}
		return int(s.tail[from+i])
	}
	i, j := s.at, m // tail[i-j:i] is pattern[:j]
	for j <= m && i < len(s.tail) && i-j <= len(s.tail)-s.least {
		switch {
		case int(s.tail[i]) == pattern(j):
			i, j = i+1, j+1
		case j > 0:
			j = int(s.border[j-1])
		default:
			i++
		}
	}
	if j > m && i < len(s.tail) {
		if m > 0 {
			k := int(s.border[m-1])
			for k > 0 && pattern(k) != b {
				k = int(s.border[k-1])
			}
			if pattern(k) == b {
				k++
			}
			s.border[m] = uint16(k) // at most SeamBytes
		}
		s.at, s.held = i, j
		return true
	}
	s.settled = true
	s.held = j
	if i-j > len(s.tail)-s.least {
		s.held = 0
	}
	return false
}
