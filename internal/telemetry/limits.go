package telemetry

import "github.com/prometheus/client_golang/prometheus"

// Limited counts what was refused, by the limit that was reached.
func (m *Metrics) Limited(limit string) { m.limited.WithLabelValues(limit).Inc() }

// ObserveLimits registers what is asked for at each scrape: how many addresses
// are watched and, where there is a Redis, whether it answers and how many of its
// round trips have failed. It is for once.
func (m *Metrics) ObserveLimits(addresses func() int, redisUp func() bool, redisFailures func() uint64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: "limit_addresses",
		Help: "Addresses whose requests or failures are remembered."}, func() float64 { return float64(addresses()) }))
	if redisUp == nil {
		return
	}
	m.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: "limit_redis_up",
			Help: "1 while the Redis that holds the limits of all nodes answers."}, func() float64 {
			if redisUp() {
				return 1
			}
			return 0
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: namespace, Name: "limit_redis_failures_total",
			Help: "Round trips to Redis that failed."}, func() float64 { return float64(redisFailures()) }),
	)
}
