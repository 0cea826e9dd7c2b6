//go:build linux

package bench

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"go.uber.org/goleak"
)

var (
	rounds = flag.Int("rounds", 7, "turns of floor and Athena in a benchmark, half as many where each takes long")
	stuck  = flag.Duration("stuck", 10*time.Second, "how long the client of BenchmarkStuckClient reads nothing")
)

func TestMain(m *testing.M) {
	if spec := os.Getenv(childEnv); spec != "" {
		os.Exit(serveChild(spec))
	}
	code := m.Run()
	table.print()
	if binaryDir != "" {
		_ = os.RemoveAll(binaryDir) // what is left is in the system's temporary folder
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// A row is one line of the table.
type row struct {
	measure       string
	floor, athena string
	ratio         string
	target        string
	reached       bool
}

type rows struct {
	mu   sync.Mutex
	rows []row // guarded by mu
}

var table rows

// add takes a row, in the place of an earlier one of the same measure: a
// benchmark may run more than once.
func (t *rows) add(r row) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.IndexFunc(t.rows, func(o row) bool { return o.measure == r.measure }); i >= 0 {
		t.rows[i] = r
		return
	}
	t.rows = append(t.rows, r)
}

func (t *rows) print() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.rows) == 0 {
		return
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "\nmeasure\tfloor\tAthena\tratio (least to most)\ttarget\treached")
	for _, r := range t.rows {
		reached := "no"
		if r.reached {
			reached = "yes"
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", r.measure, r.floor, r.athena, r.ratio, r.target, reached)
	}
	_ = w.Flush() // to a strings.Builder
	fmt.Println(b.String())
}

// A comparison holds what each turn of floor and Athena cost.
type comparison struct {
	floor, athena []float64 // of the same length, in the same unit
}

// ratio returns the median of the turns' ratios, and the extremes.
func (c comparison) ratio() (median, least, most float64) {
	ratios := make([]float64, len(c.floor))
	for i := range ratios {
		ratios[i] = c.athena[i] / c.floor[i]
	}
	return quantile(ratios, 0.5), slices.Min(ratios), slices.Max(ratios)
}

// report puts c into the table and the benchmark's result. The unit is that of
// the figures. messages is how many Athena made of each event, 0 if that was
// not counted.
func (c comparison) report(b *testing.B, measure, unit string, target, messages float64) {
	floor, athena := quantile(c.floor, 0.5), quantile(c.athena, 0.5)
	median, least, most := c.ratio()
	r := row{
		measure: measure, floor: fmt.Sprintf("%.2f %s", floor, unit), athena: fmt.Sprintf("%.2f %s", athena, unit),
		ratio:  fmt.Sprintf("%.2f (%.2f to %.2f)", median, least, most),
		target: fmt.Sprintf("ratio ≤ %.2f", target), reached: median <= target,
	}
	if messages > 0 {
		r.athena += fmt.Sprintf(", %.3f messages each", messages)
		b.ReportMetric(messages, "messages/event")
	}
	table.add(r)
	b.ReportMetric(0, "ns/op") // how long the harness took says nothing
	b.ReportMetric(floor, "floor-"+unit)
	b.ReportMetric(athena, "athena-"+unit)
	b.ReportMetric(median, "ratio")
}

// quantile returns the value below which the part q of values lies.
func quantile[T int64 | float64 | time.Duration](values []T, q float64) T {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 == len(sorted) {
		return sorted[i]
	}
	return sorted[i] + T((at-float64(i))*float64(sorted[i+1]-sorted[i]))
}
