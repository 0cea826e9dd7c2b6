package openai

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/providers"
)

func TestAWayThatWorksIsKeptToAndABetterOneTriedAgainLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := ways{list: []way{waySocket, wayEvents, wayWhole}}
		step := func(what string, want int) {
			t.Helper()
			if got := w.first(); got != want {
				t.Errorf("%s: the first way to try is %d, want %d", what, got, want)
			}
		}
		step("at the beginning", 0)
		w.worked(1)
		step("after the first failed", 1)
		time.Sleep(reprobe - time.Nanosecond)
		step("before the time", 1)
		time.Sleep(time.Nanosecond)
		step("after the time, one call", 0)
		step("after the time, the others", 1)
		w.worked(1)
		time.Sleep(reprobe)
		step("after the time again", 0)
		w.worked(0)
		step("since the first works", 0)
		w.worked(2)
		step("after both failed", 2)
	})
}

func TestTheWaysAreTheProtocolsInTheirOrder(t *testing.T) {
	for _, tc := range []struct {
		cfg                 providers.Config
		official, streaming bool
		want                []way
	}{
		{providers.Config{}, true, true, []way{waySocket, wayEvents, wayWhole}},
		{providers.Config{}, false, true, []way{wayEvents, wayWhole}},
		{providers.Config{Protocol: providers.ProtocolWebSocket}, false, true, []way{waySocket, wayEvents, wayWhole}},
		{providers.Config{Protocol: providers.ProtocolSSE}, true, true, []way{wayEvents, wayWhole}},
		{providers.Config{Protocol: providers.ProtocolPolling}, true, true, []way{wayBackground, wayPolls, wayWhole}},
		{providers.Config{Background: true}, true, true, []way{wayBackground, wayPolls, wayWhole}},
		{providers.Config{Background: true}, true, false, []way{wayPolls, wayWhole}},
		{providers.Config{}, true, false, []way{wayWhole}},
	} {
		got, err := responsesWays(tc.cfg, tc.official, tc.streaming)
		if err != nil || !slices.Equal(got, tc.want) {
			t.Errorf("%+v, official %v, streaming %v: %v, %v; want %v", tc.cfg, tc.official, tc.streaming, got, err, tc.want)
		}
	}
	for _, cfg := range []providers.Config{
		{Protocol: "carrier pigeon"}, {Protocol: providers.ProtocolWebSocket, Background: true},
	} {
		if got, err := responsesWays(cfg, true, true); err == nil {
			t.Errorf("%+v gave the ways %v", cfg, got)
		}
	}
	w := ways{list: []way{waySocket, wayEvents, wayPolls, wayWhole}}
	if got := w.protocols(); !slices.Equal(got, []providers.Protocol{providers.ProtocolWebSocket, providers.ProtocolSSE, providers.ProtocolPolling}) {
		t.Errorf("the protocols are %q", got)
	}
}
