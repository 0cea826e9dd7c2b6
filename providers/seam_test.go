package providers_test

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/athena-hub/athena/providers"
)

// counts says whether a repetition of text is evidence of one, by trying.
func counts(partial, text string) bool {
	evidence := 0
	for _, r := range text {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			evidence += utf8.RuneLen(r)
		}
	}
	return evidence >= providers.SeamEvidence || evidence > 0 && text == partial
}

// repetition is how long the repetition is with which continuation begins.
func repetition(partial, continuation string) int {
	for n := min(len(partial), len(continuation), providers.SeamBytes); n > 0; n-- {
		if strings.HasSuffix(partial, continuation[:n]) && counts(partial, continuation[:n]) {
			return n
		}
	}
	return 0
}

// open says whether text may become a repetition that is longer than it is.
func open(partial, text string) bool {
	for n := len(text) + 1; n <= min(len(partial), providers.SeamBytes); n++ {
		end := partial[len(partial)-n:]
		if strings.HasPrefix(end, text) && utf8.RuneStart(end[0]) && counts(partial, end) {
			return true
		}
	}
	return false
}

// checkSeam feeds deltas to a seam behind partial, and compares each step with
// what follows from the definition.
func checkSeam(t *testing.T, partial string, deltas []string) {
	t.Helper()
	s := providers.NewSeam(partial)
	want := strings.Join(deltas, "")
	want = want[repetition(partial, want):]
	var fed, got string
	ruledOut := false
	for _, d := range deltas {
		for i := range len(d) + 1 { // also inside of d
			ruledOut = ruledOut || !open(partial, fed+d[:i]) && fed+d[:i] != ""
		}
		fed += d
		out := s.Feed(d)
		got += out
		if !utf8.ValidString(out) {
			t.Fatalf("behind %q, %q: Feed gave %q, which is split inside a character", partial, deltas, out)
		}
		switch {
		case !ruledOut && got != "":
			t.Fatalf("behind %q, %q: %q was written, though %q may be a repetition", partial, deltas, got, fed)
		case ruledOut && got != fed[repetition(partial, fed):]:
			t.Fatalf("behind %q, %q: after %q only %q was written", partial, deltas, fed, got)
		}
	}
	got += s.Flush()
	if got != want || s.Flush() != "" {
		t.Fatalf("behind %q, %q became %q, want %q", partial, deltas, got, want)
	}
}

func TestASeamRemovesWhatIsRepeatedAndNothingElse(t *testing.T) {
	for _, tc := range []struct{ name, partial, continuation, want string }{
		{"nothing repeated", "The function returns", " an error", " an error"},
		{"the last words", "The function returns an error", "an error when the file", " when the file"},
		{"the whole partial answer", "The", "The function", " function"},
		{"the whole, and nothing more", "The function", "The function", ""},
		{"a line end", "}\n", "\nfunc", "\nfunc"},
		{"a closing brace", "func a() { if b {}", "}", "}"},
		{"the row of a table", "a table\n| - | - | - |", " | - | - |\n", " | - | - |\n"},
		{"a short word", "it was so", "so that", "so that"},
		{"a word", "and then return", "return nil", " nil"},
		{"a mark that is the whole", "#", "# Review", "# Review"},
		{"characters of several bytes", "Die Größe für Käse", "für Käse und 世界", " und 世界"},
		{"characters without spaces", "これは関数です", "関数です。", "。"},
		{"characters that begin alike", "é世界世界世界ü", "世界世界世界ö", "世界世界世界ö"},
		{"the longest of several", "one two three one two three", "one two three four", " four"},
		{"a periodic end", "abcabcabcabcabc", "abcabcabcabcabcabcd", "abcd"},
		{"a beginning that stands elsewhere", "the parser reads; the parser writes", "the parser fails", "the parser fails"},
		{"a shorter repetition inside a failed one", "xy abcdefghi abcdefghi ab", "abcdefghi ab and", " and"},
		{"nothing at all", "The function", "", ""},
		{"nothing before", "", "The function", "The function"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := providers.NewSeam(tc.partial)
			if got := s.Feed(tc.continuation) + s.Flush(); got != tc.want {
				t.Errorf("the continuation became %q, want %q", got, tc.want)
			}
			checkSeam(t, tc.partial, []string{tc.continuation})
			checkSeam(t, tc.partial, strings.Split(tc.continuation, ""))
		})
	}
}

func TestASeamHoldsBackOnlyWhatMayBeARepetition(t *testing.T) {
	s := providers.NewSeam("The parser reads the configuration file")
	for _, step := range []struct{ in, out string }{
		{"the ", ""},
		{"con", ""},
		{"tents ", "the contents "}, // the t rules it out
		{"the configuration file", "the configuration file"},
	} {
		if got := s.Feed(step.in); got != step.out {
			t.Errorf("%q gave %q at once, want %q", step.in, got, step.out)
		}
	}
}

func TestASeamIsTheSameForEverySplit(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	// Few letters, so that there are many near misses.
	letters := []string{"a", "b", " ", "é", "世", "\n", "}"}
	word := func(n int) string {
		var b strings.Builder
		for range rnd.IntN(n + 1) {
			b.WriteString(letters[rnd.IntN(min(len(letters), 2+rnd.IntN(len(letters))))])
		}
		return b.String()
	}
	for range 3000 {
		partial := word(30)
		if rnd.IntN(20) == 0 {
			partial = strings.Repeat("x", providers.SeamBytes-rnd.IntN(8)) + partial
		}
		// The continuation begins with a piece of the partial's end, or what is
		// nearly one.
		runes := []rune(partial)
		begin := string(runes[rnd.IntN(len(runes)+1):])
		if len(begin) > 100 {
			begin = ""
		}
		continuation := begin + word(12)
		var deltas []string
		for left := []rune(continuation); len(left) > 0; {
			n := 1 + rnd.IntN(len(left))
			deltas = append(deltas, string(left[:n]))
			left = left[n:]
		}
		checkSeam(t, partial, deltas)
	}
}

func FuzzSeam(f *testing.F) {
	f.Add("The function returns an error", "an error when", uint64(1))
	f.Add("abcabcabcabc", "abcabcabcabcabd", uint64(7))
	f.Add("世界世界世界世界", "世界世界世界世", uint64(3))
	f.Fuzz(func(t *testing.T, partial, continuation string, cuts uint64) {
		if !utf8.ValidString(partial) || !utf8.ValidString(continuation) || len(partial)+len(continuation) > 120 {
			t.Skip()
		}
		var deltas []string
		last := 0
		for i := range continuation {
			if cuts>>(i%64)&1 == 1 && i > last {
				deltas = append(deltas, continuation[last:i])
				last = i
			}
		}
		checkSeam(t, partial, append(deltas, continuation[last:]))
	})
}

func TestASeamTakesLinearTime(t *testing.T) {
	// A search that began anew at each place would compare two million bytes
	// here for each byte of the continuation.
	s := providers.NewSeam(strings.Repeat("a", providers.SeamBytes-1) + "b")
	begin := time.Now()
	for range providers.SeamBytes {
		s.Feed("a")
	}
	if d := time.Since(begin); d > time.Second {
		t.Errorf("it took %v", d)
	}
}

func TestASeamWithoutARepetitionAllocatesNothing(t *testing.T) {
	partial := strings.Repeat("The function returns an error. ", 100)
	seams := make([]*providers.Seam, 101)
	for i := range seams {
		seams[i] = providers.NewSeam(partial)
	}
	i := 0
	if n := testing.AllocsPerRun(100, func() {
		if seams[i].Feed("Maybe ")+seams[i].Feed("so") != "Maybe so" {
			t.Error("the text was changed")
		}
		i++
	}); n > 1 { // the test's own concatenation
		t.Errorf("it costs %v allocations", n-1)
	}
}

func BenchmarkSeam(b *testing.B) {
	partial := strings.Repeat("The function returns an error. ", 100)
	b.ReportAllocs()
	for b.Loop() {
		s := providers.NewSeam(partial)
		if s.Feed("returns an error. ") != "" || s.Feed("It is ") != "It is " {
			b.Fatal("the repetition was not removed")
		}
	}
}
