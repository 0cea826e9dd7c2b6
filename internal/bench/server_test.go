//go:build linux

package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers/providertest"
)

// An order is what the benchmark asks of a server.
type order struct {
	Do     string        // "create", "publish", "end", "cpu" or "memory"
	Count  int           // create: how many streams
	IDs    []string      // publish, end: which streams
	Events int           // publish: how many on each stream
	Every  time.Duration // publish: from one event of a stream to its next; 0 means without a pause
	Bytes  int           // publish: the length of each event's JSON
	Timed  bool          // publish: measure how long each takes
}

// An answer is what a server says when the order is done, or at its start.
type answer struct {
	Error    string
	Addr     string // at the start
	IDs      []string
	CPU      time.Duration
	Memory   memory
	Took     time.Duration   // publish: all of it
	Appended []time.Duration // publish, timed: each
}

// memory is what a process holds, in bytes.
type memory struct {
	Resident     int64
	Heap, Stacks int64 // of Resident, in use by Go
}

// A broker is a server of streams: the floor or Athena.
type broker interface {
	http.Handler
	// create begins a stream.
	create(ctx context.Context) (id string, err error)
	// publish appends one chunk of text to a stream.
	publish(id, text string) error
	// end ends a stream.
	end(id string) error
	close() error
}

// serveChild is the main function of a server process. It takes orders from
// standard input until that ends.
func serveChild(text string) (code int) {
	out := json.NewEncoder(os.Stdout)
	err := func() (err error) {
		var s spec
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			return err
		}
		if s.Profile != "" {
			f, err := os.Create(s.Profile)
			if err != nil {
				return err
			}
			if err := pprof.StartCPUProfile(f); err != nil {
				return err
			}
			defer func() {
				pprof.StopCPUProfile()
				err = errors.Join(err, f.Close())
			}()
		}
		h, err := newBroker(s)
		if err != nil {
			return err
		}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return errors.Join(err, h.close())
		}
		server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
		served := make(chan error, 1)
		go func() { served <- server.Serve(ln) }()
		err = takeOrders(h, ln.Addr().String(), out)
		err = errors.Join(err, server.Close(), h.close())
		if e := <-served; !errors.Is(e, http.ErrServerClosed) {
			err = errors.Join(err, e)
		}
		return err
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "server process:", err)
		_ = out.Encode(answer{Error: err.Error()}) // the parent may be gone
		return 1
	}
	return 0
}

func newBroker(s spec) (broker, error) {
	switch s.Role {
	case "floor":
		return newFloor(), nil
	case "athena":
		return newAthena(s)
	case "proxy":
		return newProxy(s.Upstream), nil
	case "upstream":
		return newScripted(s.Chunks)
	}
	return nil, fmt.Errorf("no such role: %q", s.Role)
}

func takeOrders(h broker, addr string, out *json.Encoder) error {
	if err := out.Encode(answer{Addr: addr}); err != nil {
		return err
	}
	in := json.NewDecoder(os.Stdin)
	for {
		var o order
		if err := in.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		a, err := obey(h, o)
		if err != nil {
			a.Error = err.Error()
		}
		if err := out.Encode(a); err != nil {
			return err
		}
	}
}

func obey(h broker, o order) (a answer, err error) {
	switch o.Do {
	case "create":
		for range o.Count {
			id, err := h.create(context.Background())
			if err != nil {
				return a, err
			}
			a.IDs = append(a.IDs, id)
		}
	case "publish":
		a.Appended, a.Took, err = publish(h, o)
	case "end":
		for _, id := range o.IDs {
			err = errors.Join(err, h.end(id))
		}
	case "cpu":
		a.CPU, err = ownCPU()
	case "memory":
		a.Memory, err = ownMemory()
	default:
		err = fmt.Errorf("no such order: %q", o.Do)
	}
	return a, err
}

// minPause is the shortest pause of a publisher: a timer for each of 50,000
// events a second would cost more than many an event.
const minPause = time.Millisecond

// publish appends to all streams in turn, evenly over time. Every text begins
// with the time of its making, see providertest.StampTime.
func publish(h broker, o order) (appended []time.Duration, took time.Duration, err error) {
	text := []byte(strings.Repeat("x", max(o.Bytes-eventOverhead(o.IDs[0]), providertest.StampBytes)))
	step := o.Every / time.Duration(len(o.IDs))
	start := time.Now()
	for i := range o.Events * len(o.IDs) {
		if o.Every > 0 {
			// A pause, to keep the pace; nothing is waited for.
			if ahead := time.Until(start.Add(time.Duration(i) * step)); ahead > 0 {
				time.Sleep(max(ahead, minPause))
			}
		}
		began := time.Now()
		strconv.AppendInt(text[:0], began.UnixNano(), 10) // 19 digits until the year 2262
		text[providertest.StampBytes-1] = ' '
		if err := h.publish(o.IDs[i%len(o.IDs)], string(text)); err != nil {
			return nil, 0, err
		}
		if o.Timed {
			appended = append(appended, time.Since(began))
		}
	}
	return appended, time.Since(start), nil
}

// eventOverhead is about how long an event's JSON is without its text.
func eventOverhead(id string) int {
	e := protocol.EncodeChunk(id, 1000, 1000, time.Now(), protocol.KindText, 1, "")
	return len(e.JSON)
}

func ownCPU() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, err
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

func ownMemory() (memory, error) {
	// Twice, since what a sync.Pool holds goes with the second.
	runtime.GC()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return memory{}, err
	}
	_, rest, _ := bytes.Cut(status, []byte("\nVmRSS:"))
	line, _, _ := bytes.Cut(rest, []byte(" kB\n"))
	kib, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 10, 64)
	if err != nil {
		return memory{}, fmt.Errorf("/proc/self/status: %w", err)
	}
	return memory{Resident: kib << 10, Heap: int64(m.HeapInuse), Stacks: int64(m.StackInuse)}, nil
}
