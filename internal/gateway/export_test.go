package gateway

// DecodeFields is what reads the bodies of requests about keys.
var DecodeFields = decodeFields
