package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	// floodVariable makes the test binary flood the address that it names, for the
	// duration behind it, as a process of its own.
	floodVariable = "ATHENA_TEST_FLOOD"
	// floodTimeVariable is how long the flood lasts; by default a short form that
	// shows that everything holds, and no figures.
	floodTimeVariable = "ATHENA_BENCH_FLOOD"
	// floodRate is how many connections a second are opened, if the machine can.
	floodRate = 10_000
	// floodFrom is the address they come from. All of 127.0.0.0/8 is loopback on
	// Linux.
	floodFrom = "127.0.0.2"
)

// flood opens connections, each with a request with a bad key, and prints how many
// it has opened, how many of these were answered with 401 and with 429, and how
// many were cut.
func flood(spec string) (code int) {
	addr, d, _ := strings.Cut(spec, " ")
	lasts, err := time.ParseDuration(d)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	lower() // the attackers' own work is not the server's, which they would not share a machine with
	var opened, unauthorized, limited, cut atomic.Int64
	ctx, cancel := context.WithTimeout(context.Background(), lasts)
	defer cancel()
	due := make(chan struct{}, floodRate)
	var wg sync.WaitGroup
	for i := range 256 {
		wg.Go(func() {
			dialer := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(floodFrom)}}
			for range due {
				opened.Add(1)
				conn, err := dialer.Dial("tcp", addr)
				if err != nil { // it was reset before the dialer looked
					cut.Add(1)
					continue
				}
				_ = conn.(*net.TCPConn).SetLinger(0) // or it would run out of ports
				_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
				_, _ = fmt.Fprintf(conn, "GET /v1/providers HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer guess-%d-%d\r\n\r\n", i, opened.Load())
				status, _ := bufio.NewReaderSize(conn, 64).ReadString('\n')
				switch {
				case strings.Contains(status, " 401 "):
					unauthorized.Add(1)
				case strings.Contains(status, " 429 "):
					limited.Add(1)
				default:
					cut.Add(1)
				}
				_ = conn.Close()
			}
		})
	}
	const step = 2 * time.Millisecond
	tick := time.NewTicker(step)
	defer tick.Stop()
	for ctx.Err() == nil {
		<-tick.C
		for range floodRate * int(step) / int(time.Second) {
			select {
			case due <- struct{}{}:
			default: // more than the machine gives
			}
		}
	}
	close(due)
	wg.Wait()
	fmt.Println(opened.Load(), unauthorized.Load(), limited.Load(), cut.Load())
	return 0
}

// resident is how much memory a process has.
func resident(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b))
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// visitLatencies are those of somebody with a good key, at another address.
func visitLatencies(ctx context.Context, s *server, key string) (took []time.Duration, err error) {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return took, nil
		}
		req, err := http.NewRequest(http.MethodGet, s.url+"/v1/providers", nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+key)
		began := time.Now()
		res, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		_ = res.Body.Close() // a short answer
		if res.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("a good key is answered with %d", res.StatusCode)
		}
		took = append(took, time.Since(began))
	}
}

func TestAFloodOfBadKeysFromOneAddressCostsOthersLittle(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("it needs a second address on loopback")
	}
	lasts, whole := 2*time.Second, false
	if v := os.Getenv(floodTimeVariable); v != "" {
		var err error
		if lasts, err = time.ParseDuration(v); err != nil {
			t.Fatal(err)
		}
		whole = true
	}
	s := serve(t, nil, callers...)
	pid := s.process.cmd.Process.Pid
	quiet, cancel := context.WithTimeout(t.Context(), lasts)
	defer cancel()
	before, err := visitLatencies(quiet, s, adasKey)
	if err != nil {
		t.Fatal(err)
	}
	memoryBefore, err := resident(pid)
	if err != nil {
		t.Fatal(err)
	}

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	attack := exec.CommandContext(t.Context(), self)
	attack.Env = append(os.Environ(), floodVariable+"="+s.addr+" "+lasts.String())
	attack.Stderr = os.Stderr
	out, told := make(chan []byte, 1), make(chan error, 1)
	go func() { told <- s.process.waitLog(t.Context(), "an address is blocked") }()
	busy, done := context.WithCancel(t.Context())
	defer done()
	go func() {
		defer done()
		b, err := attack.Output()
		if err != nil {
			b = []byte(err.Error())
		}
		out <- b
	}()
	during, err := visitLatencies(busy, s, adasKey)
	said := string(<-out)
	if err != nil {
		t.Fatal(err)
	}
	memoryAfter, err := resident(pid)
	if err != nil {
		t.Fatal(err)
	}
	var opened, unauthorized, limited, cut int64
	if _, err := fmt.Sscan(said, &opened, &unauthorized, &limited, &cut); err != nil {
		t.Fatalf("the flood said %q", said)
	}
	at := func(d []time.Duration, part float64) time.Duration {
		slices.Sort(d)
		return d[int(part*float64(len(d)-1))]
	}
	t.Logf("%d connections in %v: %d answered 401, %d 429, %d cut; others' latency at the median %v before and %v during it, at the 95th percentile %v and %v; memory %d and %d KiB",
		opened, lasts, unauthorized, limited, cut, at(before, .5), at(during, .5), at(before, .95), at(during, .95), memoryBefore>>10, memoryAfter>>10)
	// What comes at the same time as the last that is allowed is answered, too.
	if unauthorized > 30+256 || limited == 0 || opened < 100 {
		t.Errorf("of %d bad keys %d were looked at, and %d limited", opened, unauthorized, limited)
	}
	if grown := memoryAfter - memoryBefore; grown > 64<<20 && !raceEnabled {
		t.Errorf("the server's memory has grown by %d KiB", grown>>10)
	}
	if whole && at(during, .5) > 2*at(before, .5) {
		t.Errorf("others' latency is more than doubled")
	}
	if err := <-told; err != nil {
		t.Error(err)
	}
}
