package overload_test

import (
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/athena-hub/athena/internal/overload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var classes = []overload.Class{overload.Explain, overload.Greedy, overload.List, overload.Analyze, overload.Watch, overload.Resume}

// refused is the part of many requests that is refused.
func refused(t *testing.T, s *overload.Shedder, c overload.Class) float64 {
	t.Helper()
	const many = 2000
	n := 0
	var waits = map[time.Duration]bool{}
	for range many {
		wait, shed := s.Shed(c)
		if !shed {
			continue
		}
		n++
		waits[wait] = true
		if wait < time.Second || wait > 5*time.Second {
			t.Fatalf("%s is told to wait %v", c, wait)
		}
	}
	if n > 100 && len(waits) < n/2 {
		t.Errorf("%s: %d refusals have only %d different waits", c, n, len(waits))
	}
	return float64(n) / many
}

func TestWhatIsCheapestToLoseIsShedFirstAndResumesNever(t *testing.T) {
	var analyses, connections float64
	s := overload.New(overload.Options{From: 0.8, Analyses: func() float64 { return analyses }, Connections: func() float64 { return connections }})
	defer s.Close()
	for _, c := range []struct {
		analyses, connections float64
		want                  [6]float64 // by class; -1 for in between
	}{
		{0, 0, [6]float64{}},
		{0.8, 0.8, [6]float64{}},
		{0.82, 0.82, [6]float64{-1, 0, 0, 0, 0, 0}},
		{0.85, 0.85, [6]float64{1, -1, 0, 0, 0, 0}},
		{0.9, 0.9, [6]float64{1, 1, 0, 0, 0, 0}}, // lists need no analyses
		{0.94, 0.94, [6]float64{1, 1, 0, -1, 0, 0}},
		{0.97, 0.97, [6]float64{1, 1, 0, 1, -1, 0}},
		{1, 0, [6]float64{1, 1, 0, 1, 0, 0}},
		{0, 1, [6]float64{0, 0, 0, 0, 1, 0}},
	} {
		analyses, connections = c.analyses, c.connections
		for i, class := range classes {
			got := refused(t, s, class)
			if want := c.want[i]; want >= 0 && got != want || want < 0 && (got <= 0 || got >= 1) {
				t.Errorf("with %v of the analyses and %v of the connections %s is refused in %v of cases, want %v", c.analyses, c.connections, class, got, want)
			}
		}
		if busy := c.analyses > 0.8 || c.connections > 0.8; s.Busy() != busy {
			t.Errorf("with %v and %v busy is %v", c.analyses, c.connections, s.Busy())
		}
	}
}

func TestAPartOfOneShedsNothing(t *testing.T) {
	s := overload.New(overload.Options{From: 1, Analyses: func() float64 { return 1 }})
	defer s.Close()
	for _, c := range classes {
		if refused(t, s, c) != 0 {
			t.Errorf("%s is shed", c)
		}
	}
}

func TestANodeThatIsInTimeShedsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := overload.New(overload.Options{})
		defer s.Close()
		time.Sleep(10 * time.Second)
		if s.Busy() {
			t.Error("it counts as busy")
		}
	})
}

func TestALateNodeShedsListsTooAndStillNoResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := overload.New(overload.Options{Late: time.Second})
		defer s.Close()
		s.Late(2 * time.Second)
		for _, c := range classes {
			if got, want := refused(t, s, c), c != overload.Resume; (got == 1) != want {
				t.Errorf("%s is refused in %v of cases", c, got)
			}
		}
		time.Sleep(time.Second)
		if s.Busy() {
			t.Error("it is in time again, and counts as busy")
		}
	})
}
