package config

import (
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// EnvPrefix begins the name of every variable but the vendors' own.
const EnvPrefix = "ATHENA_"

// An UnknownVariable has the prefix of ours and means nothing.
type UnknownVariable struct {
	Name string
	// Nearest is the variable that was probably meant; "" where none is near.
	Nearest string
}

// linked are variables that Kubernetes gives every container beside a service
// that is called athena. ATHENA_PORT is another, with a URL in it.
var linked = regexp.MustCompile(`^ATHENA_(SERVICE_(HOST|PORT)|PORT_[0-9]+_(TCP|UDP))`)

// UnknownVariables returns the variables of environ that begin as ours do and
// that nothing reads, sorted. Others are names that the caller reads beside the
// settings; one that ends with "_" stands for all that begin so.
//
// They are not an error: an environment is shared, and a setting that a newer
// version knows should not keep an older one from starting. But whoever writes
// ATHENA_API_KEYS has a server without keys, and should be told.
func UnknownVariables(environ []string, others ...string) []UnknownVariable {
	names := append(variables(), others...)
	var unknown []UnknownVariable
	for name, value := range parseEnviron(environ) {
		known := func(k string) bool { return k == name || strings.HasSuffix(k, "_") && strings.HasPrefix(name, k) }
		if !strings.HasPrefix(name, EnvPrefix) || slices.ContainsFunc(names, known) ||
			linked.MatchString(name) || name == "ATHENA_PORT" && strings.Contains(value, "://") {
			continue
		}
		unknown = append(unknown, UnknownVariable{name, nearest(name, names)})
	}
	slices.SortFunc(unknown, func(a, b UnknownVariable) int { return strings.Compare(a.Name, b.Name) })
	return unknown
}

// variables are those of the settings.
func variables() []string {
	src := &source{envNames: make(map[*kong.Value]string)}
	k := src.grammar()
	names := make([]string, len(k.Flags))
	for i, f := range k.Flags {
		names[i] = src.envNames[f.Value]
	}
	return names
}

// nearest is the one of names from which name is made by the fewest changes, in
// no more than a third of its letters: "" where none is.
func nearest(name string, names []string) string {
	best, least := "", (len(name)-len(EnvPrefix))/3+1
	for _, n := range names {
		if strings.HasSuffix(n, "_") {
			continue
		}
		if d := distance(name, n); d < least {
			best, least = n, d
		}
	}
	return best
}

// distance is Levenshtein's, of bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}
